"""Whole pickled networks of torch.nn and torchvision classes, read without running anything that the file brings along.

A pickle names classes and functions and says with which arguments to call them. `torch.load(weights_only=True)` calls
nothing but what is on a list; the list here is made of the layer classes of torch.nn and of torchvision's
classification networks. None of them runs a string, opens a file or imports when constructed or restored. What the
file has put into the objects is then checked too (`check`), before any of their methods is called: a hook, or any value
that is not plain data, is refused.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import Any

import torch
import torchvision.models
import torchvision.ops
from torch import nn
from torchvision.models import mobilenetv2 as _mobilenetv2

_LAYERS = ("activation", "batchnorm", "channelshuffle", "conv", "dropout", "flatten", "instancenorm", "linear")
_MORE_LAYERS = ("normalization", "padding", "pixelshuffle", "pooling", "upsampling")
_NETWORKS = ("alexnet", "convnext", "densenet", "efficientnet", "googlenet", "inception", "maxvit", "mnasnet")
_MORE_NETWORKS = ("mobilenetv2", "mobilenetv3", "regnet", "resnet", "shufflenetv2", "squeezenet", "swin_transformer")
_LAST_NETWORKS = ("vgg", "vision_transformer")
_SOURCES = (
    *(f"torch.nn.modules.{name}" for name in _LAYERS + _MORE_LAYERS),
    *(f"torchvision.models.{name}" for name in _NETWORKS + _MORE_NETWORKS + _LAST_NETWORKS),
    "torchvision.ops.misc",
    "torchvision.ops.stochastic_depth",
)


class Inert:
    """Stands in for a harmless bit that files carry and no network needs: takes anything, keeps nothing."""

    def __new__(cls, *_: Any) -> Inert:
        """Swallow the arguments that the pickle gives."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _classes_of(source: str) -> set[type[nn.Module]]:
    """The module classes that a Python module defines itself, but for those that make parameters on first use."""
    found = {c for c in vars(sys.modules[source]).values() if isinstance(c, type) and issubclass(c, nn.Module)}
    return {c for c in found if c.__module__ == source and "Lazy" not in c.__name__}


MODULES: frozenset[type[nn.Module]] = frozenset(
    {nn.Sequential, nn.ModuleList, nn.ModuleDict, *(c for source in _SOURCES for c in _classes_of(source))}
)
"""The classes that a pickled network may consist of."""

_FORMER_NAMES = [
    # torchvision up to 0.8 (TrojAI's first rounds) kept MobileNetV2 here.
    (torchvision.models.MobileNetV2, "torchvision.models.mobilenet.MobileNetV2"),
    (_mobilenetv2.InvertedResidual, "torchvision.models.mobilenet.InvertedResidual"),
    (torchvision.ops.misc.Conv2dNormActivation, "torchvision.models.mobilenet.ConvBNReLU"),
]
INERT = [
    (Inert, name)
    for name in (
        "functools.partial",  # a ViT remembers which normalisation layer it was built with
        "numpy.core.multiarray.scalar",  # accuracies that training scripts save beside the weights
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "argparse.Namespace",
        "pathlib.PosixPath",
    )
]
"""Names that are read as `Inert` instead of what they name."""

ALLOWED: list[Any] = [*MODULES, *_FORMER_NAMES, *INERT]
"""What `torch.serialization.safe_globals` is given to read a whole network."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device, torch.layout, Inert)
_CONTAINERS = (tuple, list, set, dict, OrderedDict)


def check(network: object) -> str | None:
    """Why an unpickled network is not to be trusted, or None if it is.

    Looks at types and instance dictionaries only, and calls no method of the objects, since a pickle could have put its
    own in their place.
    """
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("the network", network)]
    while waiting:
        name, module = waiting.pop()
        kind = type(module)
        if kind not in MODULES:
            return f"{name} is a {kind.__module__}.{kind.__qualname__}, not a layer of torch.nn or torchvision"
        if id(module) in seen:
            continue
        seen.add(id(module))
        fields = vars(module)
        reason = next((r for key, value in fields.items() if (r := _check_field(name, kind, key, value))), None)
        if reason is not None:
            return reason
        waiting += [(str(key), child) for key, child in fields.get("_modules", {}).items() if child is not None]
    return None


def _check_field(name: str, kind: type, key: str, value: object) -> str | None:
    """Why one attribute of a module is not to be trusted."""
    if key == "_modules":
        return None if type(value) in (dict, OrderedDict) else f"{name} has no proper children"
    if key in ("_parameters", "_buffers"):
        if type(value) not in (dict, OrderedDict):
            return f"{name} has no proper {key}"
        bad = [k for k, tensor in value.items() if not (tensor is None or is_bare_tensor(tensor))]  # type: ignore[union-attr]
        return f"{name}.{bad[0]} is not a plain tensor" if bad else None
    if "hook" in key:
        empty = type(value) in (dict, OrderedDict) and not value
        none = empty or type(value) in (bool, type(None))
        return None if none else f"{name} carries a hook ({key}), which would run with it"
    if not _is_plain(value):
        return f"{name}.{key} is a {type(value).__name__}, not plain data"
    return f"{name}.{key} stands in the place of a method" if callable(getattr(kind, key, None)) else None


def is_bare_tensor(value: object) -> bool:
    """Whether it is exactly a tensor or a parameter, without attributes or hooks of its own."""
    if type(value) not in (torch.Tensor, nn.Parameter):
        return False
    hooks = torch.Tensor._backward_hooks.__get__(value)  # type: ignore[attr-defined]
    return not vars(value) and not hooks


def _is_plain(value: object) -> bool:
    """Whether it and all that it holds is plain data; shared parts are looked at once, or 60 nested lists would take for ever."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if type(one) in _CONTAINERS:
            if id(one) not in seen:
                seen.add(id(one))
                waiting += [*one, *one.values()] if isinstance(one, dict) else one  # type: ignore[misc]
        elif isinstance(one, type):  # a ResNet remembers which normalisation layer it was built with
            if one not in MODULES:
                return False
        elif type(one) not in _PLAIN and not is_bare_tensor(one):
            return False
    return True
