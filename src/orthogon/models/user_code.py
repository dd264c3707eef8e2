"""The user's own network: `path/file.py:function`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


def build_from_file(arch: str, classes: int) -> nn.Module:
    """Run the file and call its function (or class) with the class count, or with nothing if it takes no argument.

    This runs the file, so `arch` must come from the user, never from a card or a checkpoint.

    Raises:
        ValueError: no such file or function, an error in the user's code, or a result that is no `nn.Module`.
    """
    path, _, name = arch.rpartition(":")
    function = _function(_imported(Path(path)), name, path)
    try:
        network = function(classes) if _takes_argument(function) else function()
    except Exception as error:
        raise ValueError(f"{arch} raised {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{arch} must return a torch.nn.Module, it returned {type(network).__name__}")
    return network


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"no file {path} to build the network from (--arch is path/file.py:function)")
    spec = importlib.util.spec_from_file_location(f"orthogon_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that the file can import its neighbours, as when it is run
    # Dataclasses look their module up by name while they are being made.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module


def _function(module: ModuleType, name: str, path: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ValueError(f"{path} has no function {name!r}; it has {', '.join(own) or 'none'}")
    return function


def _takes_argument(function: Callable[..., Any]) -> bool:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(parameter.kind in positional for parameter in inspect.signature(function).parameters.values())
