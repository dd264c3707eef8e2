"""Synthetic run folders: the contract's files, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from orthogon import runs

UNIT = "mask L1, summed over channels"


def write_run(
    folder: Path,
    values: Sequence[Sequence[float | None]],
    classes: Sequence[str],
    *,
    failed: dict[tuple[int, int], str] | None = None,
    image_shape: tuple[int, int, int] = (3, 12, 12),
    pictures: bool = True,
    **changes: Any,
) -> Path:
    """A finished run of those distances; pairs without a value that `failed` does not name were not measured."""
    record = distance_record(values, classes, failed=failed, image_shape=image_shape, **changes)
    runs.write_json(folder / "distances.json", record)
    settings = {"model": "a net.safetensors", "seed": 3, "force": False, "arch": None}
    started = {"command": "measure", "settings": settings, "versions": {}, "started": "2026-01-02T03:04:05+00:00"}
    runs.write_json(folder / "settings.json", started)
    if pictures:
        write_pictures(folder / "triggers.safetensors", record["values"], image_shape)
    return folder


def distance_record(
    values: Sequence[Sequence[float | None]],
    classes: Sequence[str],
    *,
    failed: dict[tuple[int, int], str] | None = None,
    image_shape: tuple[int, int, int] = (3, 12, 12),
    **changes: Any,
) -> dict[str, Any]:
    """What distances.json, before.json and after.json hold."""
    failed = failed or {}
    count = len(classes)
    outcomes = [
        [failed.get((v, t)) or ("found" if values[v][t] is not None else None) for t in range(count)] for v in range(count)
    ]
    shown = [[None if (v, t) in failed else values[v][t] for t in range(count)] for v in range(count)]
    asr = [[{"found": 0.93, "asr not reached": 0.4}.get(o or "") for o in row] for row in outcomes]
    return {
        "unit": UNIT,
        "protocol": "fast",
        "family": "patch",
        "classes": list(classes),
        "values": shown,
        "asr": asr,
        "outcomes": outcomes,
        "spread": [[None if v is None else v / 20 for v in row] for row in shown],
        "settings": {"seed": 3},
        "versions": {"torch": "2.9"},
        "hashes": {"model": "ab" * 32},
        "seconds": 61.0,
        "accuracy": 0.9152,
        "model": {"path": "/home/alice/net.safetensors", "image_shape": list(image_shape)},
        "data": "/home/alice/pictures, first:2000",
    } | changes


def write_pictures(path: Path, values: Any, image_shape: tuple[int, int, int]) -> None:
    """What triggers.safetensors, before.safetensors and after.safetensors hold: here one sticker for every pair."""
    pairs = [(v, t) for v, row in enumerate(values) for t, value in enumerate(row) if value is not None][:150]
    generator = torch.Generator().manual_seed(0)
    count = len(pairs)
    clean = torch.randint(0, 256, (count, *image_shape), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(count, 1, *image_shape[1:])
    mask[:, :, 2:4, 2:5] = 0.8
    tensors = {
        "pairs": torch.tensor(pairs).reshape(-1, 2),
        "size": torch.tensor([values[v][t] for v, t in pairs]),
        "asr": torch.full((count,), 0.93),
        "clean": clean,
        "stamped": (clean * (1 - mask) + 255 * mask).round().to(torch.uint8),
        "trigger.mask": mask,
        "trigger.pattern": torch.ones(count, *image_shape),
    }
    runs.write_tensors(path, tensors)


def distances(count: int, seed: int = 0) -> list[list[float | None]]:
    """A full matrix of random distances between 6 and 90."""
    drawn = 6 + 84 * torch.rand(count, count, generator=torch.Generator().manual_seed(seed))
    return [[None if v == t else round(float(drawn[v, t]), 3) for t in range(count)] for v in range(count)]


def names(count: int) -> list[str]:
    return [f"class {k}" for k in range(count)]


@pytest.fixture
def hardening_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a hardening run of n classes under a name and returns its folder; further words as for `write_hardening`."""

    def make(count: int = 10, name: str = "hardened", **words: Any) -> Path:
        from .hardenings import write_hardening

        before = distances(count)
        after = [[None if v is None else round(v * (1.2 + 0.05 * (i % 9)), 3) for v in row] for i, row in enumerate(before)]
        return write_hardening(tmp_path / name, **({"before": before, "after": after, "classes": names(count)} | words))

    return make


@pytest.fixture
def run_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run of n classes under a name and returns its folder; further words as for `write_run`."""

    def make(count: int = 10, name: str = "run", seed: int = 0, **words: Any) -> Path:
        words = {"values": distances(count, seed), "classes": names(count)} | words
        return write_run(tmp_path / name, **words)

    return make
