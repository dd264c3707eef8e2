"""A finished hardening run's files, as its page and card need them; nothing here touches a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.report.compare import Comparison, compare_runs
from orthogon.report.reading import MeasuredRun, model_name, read_distances
from orthogon.report.words import or_nan


@dataclass(frozen=True)
class Pick:
    """A trigger searched in training, one direction of a pair; victim None is every class but the target."""

    step: int
    victim: int | None
    target: int
    size: float
    """NaN where none was found."""


@dataclass(frozen=True)
class Check:
    """A look at the model in training; distance (an estimate) and loss are NaN where there is none."""

    step: int
    seconds: float
    accuracy: float
    distance: float
    loss: float
    kept: bool


@dataclass(frozen=True, eq=False)
class HardenedRun:
    """hardening.json as it stands (`record`) and what was read from it, settings.json, the distances before and after."""

    record: dict[str, Any]
    started: dict[str, Any]
    classes: tuple[str, ...]
    checks: tuple[Check, ...]
    picks: tuple[Pick, ...]
    restarts: tuple[tuple[int, str], ...]
    seconds: dict[str, float]
    """By part, without the total."""
    total_seconds: float
    before: MeasuredRun | None
    after: MeasuredRun | None
    comparison: Comparison | None
    """None unless both were measured."""

    @property
    def model_name(self) -> str:
        """The model that was hardened."""
        return model_name(self.record)

    @property
    def last_step(self) -> int:
        """The last update of the weights that the run tells of."""
        return max([int(self.record.get("step") or 0), *(c.step for c in self.checks), *(p.step for p in self.picks)])


def read_hardened(folder: Path) -> HardenedRun:
    """The results of a hardening run; its distances may be missing.

    Raises:
        ValueError: the folder has no hardening.json, or one of its files is not what it should be.
        RunError: settings.json is not the settings of a run.
    """
    path = folder / "hardening.json"
    if not path.exists():
        raise ValueError(f"{folder} has no hardening.json; let its `orthogon harden` finish: the same command goes on")
    record = runs.read_json(path)
    before, after = (read_distances(folder, f"{name}.json", f"{name}.safetensors") for name in ("before", "after"))
    try:
        times = {str(part): float(spent) for part, spent in record["seconds"].items()}
        classes = tuple(str(name) for name in record["classes"])
        picks = _picks(record.get("picks") or {}, len(classes))
        checks = tuple(_check(entry) for entry in record.get("checks") or [])
        restarts = tuple((int(entry["step"]), str(entry["reason"])) for entry in record.get("restarts") or [])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a hardening: {error!r}") from error
    parts = {part: spent for part, spent in times.items() if part != "total"}
    return HardenedRun(
        record,
        runs.read_settings(folder) or {},
        classes,
        checks,
        picks,
        restarts,
        parts,
        times.get("total", sum(parts.values())),
        before,
        after,
        compare_runs(before, after, folder / "before.json", folder / "after.json") if before and after else None,
    )


def _check(entry: dict[str, Any]) -> Check:
    numbers = {name: or_nan(entry.get(name)) for name in ("seconds", "accuracy", "distance", "loss")}
    return Check(int(entry["step"]), **numbers, kept=bool(entry.get("kept")))


def _picks(columns: dict[str, Any], classes: int) -> tuple[Pick, ...]:
    rows = zip(*(columns.get(name) or [] for name in ("step", "victim", "target", "size")), strict=True)
    picks = tuple(Pick(int(s), None if v is None else int(v), int(t), or_nan(size)) for s, v, t, size in rows)
    for pick in picks:
        if not (0 <= pick.target < classes and (pick.victim is None or 0 <= pick.victim < classes)):
            raise ValueError(f"pick of the pair {pick.victim}-{pick.target}, but there are {classes} classes")
    return picks
