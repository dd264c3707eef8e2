"""Twenty files that are no models, or no honest ones: corrupt, of another kind, too large, hanging, or with code in them."""

from __future__ import annotations

import functools
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

MARK = "code-was-run"
"""Name of the file that every payload makes, in the folder where it is run."""
_PAGE = b"<!doctype html><title>404</title><p>Not found; log in first"


class Payload:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        """What a pickle calls."""
        return os.system, (f"touch {MARK}",)


def write_all(folder: Path, model: Path) -> list[Path]:
    """Write them into a folder, each with the card of an honest model beside it; returns their paths."""
    weights = load_file(model)
    paths = []
    for name, write in WRITERS.items():
        path = folder / name
        write(path, weights)
        if path.suffix:
            path.with_suffix(".json").write_bytes(model.with_suffix(".json").read_bytes())
        paths.append(path)
    return paths


def write_shadow(folder: Path) -> Path:
    """Write a module that Python would import in the place of its own, were the folder one to import from; returns its path."""
    path = folder / "random.py"
    path.write_text(f"open({MARK!r}, 'w').close()\n", "ascii")
    return path


def _noise(count: int) -> bytes:
    return torch.randint(256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy().tobytes()


def _half(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    torch.save(dict(weights), path) if path.suffix == ".pt" else save_file(dict(weights), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _safetensors(path: Path, header: bytes, declared: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if declared is None else declared) + header)


def _unpacks_large(path: Path, _: Any) -> None:
    """A quarter of a megabyte that unpacks to a quarter of a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**28))
        file.writestr("archive/version", b"3\n")


def _nested(path: Path, _: Any) -> None:
    """A network with a list of two lists of two lists …, 60 deep: small as references, endless to walk through."""
    inner: list[Any] = []
    for _level in range(60):
        inner = [inner, inner]
    network = nn.Sequential(nn.Flatten(), nn.Linear(1200, 6))
    network.notes = inner  # type: ignore[assignment]
    torch.save(network, path)


def _hooked(path: Path, _: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(1200, 6))
    hook = functools.partial(max, f"touch {MARK}", key=os.system)  # whatever else it gets: the command is looked at first
    network.register_forward_hook(hook)  # type: ignore[arg-type]
    torch.save(network, path)


def _changed(path: Path, weights: Mapping[str, torch.Tensor], value: float) -> None:
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    save_file({**weights, name: torch.full_like(weights[name], value)}, path)


_LARGE = b'{"weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
WRITERS: Mapping[str, Callable[[Path, Mapping[str, torch.Tensor]], Any]] = {
    "empty.pt": lambda path, _: path.touch(),
    "half.pt": _half,
    "half.safetensors": _half,
    "page.pt": lambda path, _: path.write_bytes(_PAGE),
    "page.safetensors": lambda path, _: path.write_bytes(_PAGE),
    "noise.pth": lambda path, _: path.write_bytes(_noise(9000)),
    "runs-system.pt": lambda path, _: path.write_bytes(pickle.dumps(Payload())),
    "runs-system-zipped.pt": lambda path, _: torch.save(Payload(), path),
    "runs-system-beside-weights.pth": lambda path, weights: torch.save({**weights, "more": Payload()}, path),
    "runs-eval.pt": lambda path, _: path.write_bytes(f"cbuiltins\neval\n(Vopen('{MARK}','w')\ntR.".encode()),
    "runs-hook.pt": _hooked,
    "header-too-long.safetensors": lambda path, _: _safetensors(path, b"{}", declared=2**60),
    "declares-terabytes.safetensors": lambda path, _: _safetensors(path, _LARGE),
    "expands-to-terabytes.pt": lambda path, _: torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, path),
    "unpacks-large.pt": _unpacks_large,
    "nested-without-end.pt": _nested,
    "other-architecture.safetensors": lambda path, _: save_file({"weight": torch.ones(6, 1200), "bias": torch.ones(6)}, path),
    "nan.safetensors": lambda path, weights: _changed(path, weights, float("nan")),
    "empty-folder": lambda path, _: path.mkdir(),
    "pipe-that-never-ends.pt": lambda path, _: os.mkfifo(path),
}
"""By file name."""
