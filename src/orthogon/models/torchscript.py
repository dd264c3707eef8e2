"""TorchScript files, read after a look at their source.

TorchScript is a language of its own: it has no imports and no Python, but it can write tensors to files (`torch.save`),
map files (`torch.from_file`) and call other machines (rpc), also while it is being loaded (`__setstate__`). So the
source in the archive, read by PyTorch's own reader, is searched for these before anything is loaded; a file that
mentions them is refused. What remains can compute, and use up time and memory, no more.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import nn

from orthogon.models.errors import CheckpointError

_FORBIDDEN = re.compile(r"""\b(from_file|save|rpc_\w+|PythonOp|IgnoredPythonOp)\b|[."]\s*classes\b""")
# Names can be given to other names (`a = ops`), built at run time (getattr) and split by comments, so each is allowed
# in the serialiser's own spelling only.
_GUARDED = (
    (
        re.compile(r"(?<![\w.])ops\b"),
        re.compile(r"(?<![\w.])ops\.(?:prim|aten|quantized|torchvision)\.\w"),
        "operators",
    ),
    (re.compile(r"\bgetattr\b"), re.compile(r'\bgetattr\(\w+, "\w*"\)'), "names made up while it runs"),
)
_SPLIT_NAME = re.compile(r"\.\s*[#\\]|#[^\n]*\n\s*\.")


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with TorchScript source in it."""
    return any(name.lower().startswith("code/") for name in _records(path))


def load_torchscript(path: Path) -> nn.Module:
    """The scripted network, on the CPU.

    Raises:
        CheckpointError: its source could touch files or other machines, or it cannot be read.
    """
    try:
        reason = _refusal(path)
        if reason is not None:
            raise CheckpointError(
                f"{path}: refused: its TorchScript {reason}, which an image classifier has no need of. "
                "Ask for the weights alone (.safetensors)"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated; the files are there all the same
            return torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, torch.jit.Error) as error:
        raise CheckpointError(f"{path}: corrupt or of another PyTorch's TorchScript: {str(error)[:200]}") from error


def _records(path: Path) -> list[str]:
    """Names in the archive by PyTorch's own reader, so that the loader sees the same; none if it is no archive."""
    try:
        return torch._C.PyTorchFileReader(str(path)).get_all_records()
    except RuntimeError:
        return []


def _refusal(path: Path) -> str | None:
    reader = torch._C.PyTorchFileReader(str(path))
    for name in reader.get_all_records():
        lowered = name.lower()
        if lowered == "model.json":
            return "is of a format before PyTorch 1.3"
        if lowered.endswith("debug_pkl") or not (lowered.startswith("code/") or lowered.endswith(".pkl")):
            continue
        reason = _source_refusal(reader.get_record(name).decode("latin-1"), pickled=lowered.endswith(".pkl"))
        if reason is not None:
            return f"{reason} ({name})"
    return None


def _source_refusal(text: str, *, pickled: bool) -> str | None:
    if pickled:
        return "holds a C++ object of torch.classes" if "torch.classes" in text else None
    if found := _FORBIDDEN.search(text) or _SPLIT_NAME.search(text):
        return f"uses {found[0]!r}"
    for any_use, plain_use, what in _GUARDED:
        if len(any_use.findall(text)) != len(plain_use.findall(text)):
            return f"uses {what}"
    return None
