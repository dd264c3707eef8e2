"""Synthetic folders of hardening runs: the contract's files, with a history as a real run writes it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from orthogon import runs

from .conftest import UNIT, distance_record, write_pictures

Values = Sequence[Sequence[float | None]]
LAST, BEST = 1500, 1380


def write_hardening(
    folder: Path,
    before: Values | None,
    after: Values | None,
    classes: Sequence[str],
    *,
    failed: dict[tuple[int, int], str] | None = None,
    universal_only: bool = False,
    pictures: bool = True,
    image_shape: tuple[int, int, int] = (3, 12, 12),
    changes_after: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A finished hardening of a model from the one matrix to the other; None is a matrix that was not measured.

    Args:
        folder: where its files go.
        before: distances before.
        after: distances after; `failed` names pairs that have none.
        classes: their names.
        failed: outcomes of pairs without a distance after hardening.
        universal_only: whether all triggers of the training were universal ones.
        pictures: whether there are triggers of the measured pairs.
        image_shape: of the samples.
        changes_after: further keys of after.json.
        changes: further keys of hardening.json.
    """
    settings = {"model": "/home/alice/net.safetensors", "method": "moth", "minutes": 20.0, "seed": 3, "flip": True}
    started = {"command": "harden", "settings": settings, "versions": {}, "started": "2026-01-02T03:04:05+00:00"}
    runs.write_json(folder / "settings.json", started)
    for name, values, own in (("before", before, {}), ("after", after, {"failed": failed, **(changes_after or {})})):
        if values is not None:
            record = distance_record(values, classes, image_shape=image_shape, **own)
            runs.write_json(folder / f"{name}.json", record)
            if pictures:
                write_pictures(folder / f"{name}.safetensors", record["values"], image_shape)
    runs.write_json(folder / "hardening.json", _record(before, after, classes, universal_only) | changes)
    runs.write_tensors(folder / "model.safetensors", {"weight": torch.zeros(1)})
    runs.write_json(folder / "model.json", {"architecture": "resnet20", "classes": list(classes)})
    return folder


def _record(before: Values | None, after: Values | None, classes: Sequence[str], universal_only: bool) -> dict[str, Any]:
    draw = random.Random(0)
    picks = _picks(draw, before, after, len(classes), universal_only)
    return {
        "method": "universal" if universal_only else "moth",
        "family": "patch",
        "unit": UNIT,
        "classes": list(classes),
        "settings": {"family": "patch", "arms": "symmetric", "schedule": "k-arm", "steps": LAST, "learning_rate": 0.01},
        "stopped": "minutes",
        "step": LAST,
        "best_step": BEST,
        "picks_total": len(picks["step"]),
        "accuracy": {"before": 0.9235, "after": 0.919, "images": 2000, "bound": 0.01, "data": "held-out, first:2000"},
        "seconds": {"total": 1203.1, "warm-up": 95.0, "inversion": 580.2, "training": 497.9, "checks": 30.0},
        "checks": _checks(draw),
        "picks": picks,
        "restarts": [{"step": 120, "reason": "loss became NaN; learning rate halved to 0.005"}],
        "versions": {"torch": "2.9"},
        "hashes": {"model": "ab" * 32, "data": "cd" * 32, "hardened": "ef" * 32},
        "model": {"path": "/home/alice/net.safetensors", "image_shape": [3, 12, 12]},
        "data": "/home/alice/pictures, train",
    }


def _checks(draw: random.Random) -> list[dict[str, Any]]:
    """Accuracy dips and comes back while the triggers grow; a model is kept when it is within the bound and farther apart."""
    checks, most = [], 0.0
    for step in range(0, LAST + 1, 60):
        accuracy = 0.9235 - 0.022 * math.exp(-step / 260) * (step > 0) - 0.004 * step / LAST + draw.gauss(0, 0.0015) * (step > 0)
        distance = None if step == 0 else round(62 + 58 * (1 - math.exp(-step / 600)) + draw.gauss(0, 1.5), 2)
        kept = step <= BEST and accuracy >= 0.9135 and (distance or 0.0) >= most and (step == BEST or step < BEST - 30)
        most = max(most, distance or 0.0) if kept else most
        entry = {"step": step, "seconds": round(60 + step * 0.75, 1), "accuracy": round(accuracy, 4)}
        checks.append(
            entry | {"distance": distance, "loss": round(0.9 * math.exp(-step / 500) + 0.2, 4), "kept": kept or step == BEST}
        )
    return checks


def _picks(
    draw: random.Random, before: Values | None, after: Values | None, count: int, universal_only: bool
) -> dict[str, list[Any]]:
    """A universal trigger per class, then four arms of both directions every three steps, some arms far more often."""
    columns: dict[str, list[Any]] = {"step": [], "victim": [], "target": [], "size": []}

    def note(step: int, victim: int | None, target: int, size: float | None) -> None:
        for column, value in zip(columns.values(), (step, victim, target, size), strict=True):
            column.append(value)

    for target in range(count):
        note(3 * target, None, target, round(draw.uniform(90, 160), 3))
    arms = [(a, b) for a in range(count) for b in range(a)]
    weights = [draw.uniform(0.2, 1) ** 3 for _ in arms]
    for step in range(3 * count, LAST, 12 if count > 20 else 6):
        if universal_only:
            note(step, None, step // 6 % count, round(draw.uniform(90, 200), 3))
            continue
        for a, b in sorted(set(draw.choices(arms, weights, k=3))):
            for victim, target in ((a, b), (b, a)):
                first, last = (values[victim][target] if values else None for values in (before, after))
                first, last = first or 40.0, last or 80.0
                size = first + (last - first) * (1 - math.exp(-step / 450)) + draw.gauss(0, 0.03 * first)
                note(step, victim, target, None if draw.random() < 0.03 else round(size, 3))
    return columns
