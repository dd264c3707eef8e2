"""Reading a checkpoint file, anybody's, without running code from it: a dictionary of weights, or a whole network."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from orthogon.models import pickled
from orthogon.models.errors import CheckpointError, listed
from orthogon.models.torchscript import is_torchscript, load_torchscript

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".th", ".pkl")
KINDS = (".safetensors", *PICKLES)
"""Suffixes, in small letters, of the files that are read here."""
_MOST_UNPACKED = 16
"""Times its own size that an archive may unpack to."""
NESTS = ("state_dict", "model_state_dict", "model", "net")
_CONVERT = (
    "If you trust its author, convert it once yourself: "
    "python -c \"import torch, safetensors.torch as s; n = torch.load('{name}', 'cpu', weights_only=False); "
    "s.save_model(n, '{stem}.safetensors')\" and load that with --arch"
)

Weights = dict[str, Tensor]


def read_checkpoint(path: Path) -> Weights | nn.Module:
    """The weights in a file by their names (without `module.` and `_orig_mod.` prefixes), or the whole network in it.

    Reads .safetensors; PyTorch's pickles of weights, also nested under `NESTS`, and of whole networks made of torch.nn
    and torchvision classes (`pickled`); TorchScript (`torchscript`). All on the CPU, in the file's own precision.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is corrupt, holds no weights, or would need code from the file to be run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}" + (" (it is a folder)" if path.is_dir() else ""))
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _stripped(_read_safetensors(path))
    if suffix not in PICKLES:
        raise CheckpointError(f"{path}: not a kind of file that is read here ({', '.join(KINDS)}, TorchScript)")
    _require_stored(path)
    if is_torchscript(path):
        return load_torchscript(path)
    return _content(path, _read_pickle(path))


def _require_stored(path: Path) -> None:
    """Refuse an archive whose records become far larger than its file: PyTorch stores them as they are.

    Raises:
        CheckpointError: it is such a one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive, or a broken one, as its reader will say
        return
    if unpacked > _MOST_UNPACKED * path.stat().st_size + 2**26:
        raise CheckpointError(f"{path}: refused: its records unpack to {unpacked / 2**30:.1f} GiB, which no saved network does")


def _read_safetensors(path: Path) -> Weights:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: corrupt or cut short, not a safetensors file: {error}") from error


def _read_pickle(path: Path) -> object:
    """What the pickle holds; the layer classes are allowed only where weights alone were not enough."""
    try:
        return _load(path, pickled.INERT)
    except pickle.UnpicklingError:
        pass
    try:
        return _load(path, pickled.ALLOWED)
    except pickle.UnpicklingError as error:
        refused = _refused(str(error))
        if refused is None:
            raise CheckpointError(f"{path}: corrupt, or not a PyTorch checkpoint{_torchs_reason(error)}") from error
        raise CheckpointError(
            f"{path}: refused: loading it needs {refused}, which is neither a tensor nor a layer of torch.nn or "
            f"torchvision, and a pickle can run any code. {_CONVERT.format(name=path.name, stem=path.stem)}"
        ) from error


def _refused(message: str) -> str | None:
    """What PyTorch's restricted unpickler would not load; None if the pickle is just broken."""
    if "Only persistent_load of storage" in message:
        return "the source code of a class (a whole network, saved by PyTorch before 1.6)"
    found = re.search(r"GLOBAL (\S+)|function (.+)|types allowlisted .*got (.+)|classes allowlisted .*got (.+)", message)
    return next(name for name in found.groups() if name) if found else None


def _load(path: Path, allowed: list[Any]) -> object:
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a broken pickle can fail anywhere: EOFError, KeyError, UnicodeDecodeError, …
        raise CheckpointError(
            f"{path}: corrupt, cut short, or not a PyTorch checkpoint ({type(error).__name__}: {_first_line(error)})"
        ) from error


def _content(path: Path, content: object) -> Weights | nn.Module:
    """The weights or the network in what was unpickled, however it is nested."""
    if isinstance(content, nn.Module):
        if (reason := pickled.check(content)) is not None:
            raise CheckpointError(f"{path}: refused: {reason}. {_CONVERT.format(name=path.name, stem=path.stem)}")
        return content
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not weights by name")
    for nest in NESTS:
        if isinstance(content.get(nest), Mapping | nn.Module):
            return _content(path, content[nest])
    others = [str(name) for name, value in content.items() if not pickled.is_bare_tensor(value)]
    if others or not content:
        raise CheckpointError(
            f"{path}: holds no weights by name, nor any under {', '.join(NESTS)}; it has {listed(others) or 'nothing'}"
        )
    return _stripped({str(name): torch.Tensor.detach(tensor) for name, tensor in content.items()})


def _stripped(weights: Weights) -> Weights:
    """Without the prefixes of DataParallel (on all names or none) and of torch.compile (anywhere)."""
    weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    while weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def _torchs_reason(error: Exception) -> str:
    """What PyTorch's unpickler stumbled over, without its advice to unpickle such a file freely."""
    found = re.search(r"WeightsUnpickler error: (.+)", str(error))
    return f": {found[1].strip()[:200]}" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
