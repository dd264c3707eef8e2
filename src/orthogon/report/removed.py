"""A finished removal's file, as its page and table need it; nothing here touches a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.printing import printable
from orthogon.report.reading import model_name


@dataclass(frozen=True)
class Share:
    """A share of images with its 95 % confidence interval, all 0 to 1."""

    value: float
    low: float
    high: float
    count: int
    """Images that make it up."""


@dataclass(frozen=True)
class Change:
    """A share before and after, of the same images."""

    name: str
    before: Share
    after: Share
    total: int


@dataclass(frozen=True)
class Glance:
    """A look at the model on the held-out clean images while the method worked."""

    stage: str
    step: int
    accuracy: float
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class ClassRow:
    """Accuracy and attack success rate of one class as (before, after), 0 to 1; None where it has no such images."""

    name: str
    images: int
    accuracy: tuple[float, float] | None
    success: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class RemovedRun:
    """removal.json as it stands (`record`) and what was read from it and from settings.json."""

    record: dict[str, Any]
    started: dict[str, Any]
    accuracy: Change
    success: Change | None
    """The attack success rate; None where no stamped images were given."""
    robust: Change | None
    target: str
    victim: str | None
    classes: tuple[ClassRow, ...]
    looks: tuple[Glance, ...]
    notes: tuple[str, ...]
    held_out_before: float
    """Accuracy on the held-out clean images before the repair."""
    seconds: float
    images: Mapping[str, tuple[str, int]]
    """By what they are for: where they are from, and how many."""

    @property
    def model_name(self) -> str:
        """The model that was repaired; of a run's model.safetensors, the folder's name."""
        file = Path(str((self.record.get("model") or {}).get("name") or ""))
        return (file.parent.name if file.name == "model.safetensors" else "") or model_name(self.record)

    @property
    def method(self) -> str:
        """As the command line names it."""
        return printable(str(self.record["method"]))


def is_removal(folder: Path) -> bool:
    """Whether the folder holds a run of `orthogon remove`.

    Raises:
        RunError: settings.json is not the settings of a run.
    """
    started = runs.read_settings(folder)
    return started["command"] == "remove" if started else (folder / "removal.json").exists()


def read_removed(folder: Path) -> RemovedRun:
    """The results of a removal.

    Raises:
        ValueError: the folder has no removal.json, or it is not what it should be.
        RunError: settings.json is not the settings of a run.
    """
    path = folder / "removal.json"
    if not path.exists():
        raise ValueError(f"{folder} has no removal.json; let its `orthogon remove` finish: the same command goes on")
    record = runs.read_json(path)
    try:
        return _read(record, runs.read_settings(folder) or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a removal: {error!r}") from error


def changes(record: Mapping[str, Any]) -> tuple[Change, Change | None, Change | None]:
    """Accuracy, attack success rate and robust accuracy; None for the last two where no stamped images were given.

    Raises:
        KeyError, TypeError: it is not the record of a removal.
    """
    accuracy = _change("accuracy", record["accuracy"], "accuracy", "interval_95", "correct")
    if (stamped := record.get("stamped")) is None:
        return accuracy, None, None
    success = _change("attack success rate", stamped, "attack_success_rate", "attack_success_interval_95", "hits")
    return accuracy, success, _change("robust accuracy", stamped, "robust_accuracy", "robust_interval_95", "correct")


def _read(record: dict[str, Any], started: dict[str, Any]) -> RemovedRun:
    stamped = record.get("stamped")
    aim = None if stamped is None else stamped["after"]
    return RemovedRun(
        record,
        started,
        *changes(record),
        "" if aim is None else printable(str(aim["target"])),
        None if aim is None or aim["victim"] is None else printable(str(aim["victim"])),
        _class_rows(record["accuracy"], stamped),
        tuple(Glance(str(e["stage"]), int(e["step"]), float(e["accuracy"]), dict(e["facts"])) for e in record["history"]),
        tuple(printable(str(note)) for note in record["notes"]),
        float(record["held_out"]["before"]["accuracy"]),
        float(record["seconds"]),
        {name: (str(part["source"]), int(part["count"])) for name, part in record["images"].items() if part is not None},
    )


def _change(name: str, sides: Mapping[str, Any], share: str, interval: str, count: str) -> Change:
    def told(side: Mapping[str, Any]) -> Share:
        low, high = side[interval]
        return Share(float(side[share]), float(low), float(high), int(side[count]))

    return Change(name, told(sides["before"]), told(sides["after"]), int(sides["after"]["total"]))


def _class_rows(accuracy: Mapping[str, Any], stamped: Mapping[str, Any] | None) -> tuple[ClassRow, ...]:
    clean = [_by_class(accuracy[side], "accuracy") for side in ("before", "after")]
    hits = [{} if stamped is None else _by_class(stamped[side], "attack_success_rate") for side in ("before", "after")]
    counts = {str(line["class"]): int(line["total"]) for line in accuracy["after"]["per_class"]}
    return tuple(ClassRow(printable(name), count, _both(clean, name), _both(hits, name)) for name, count in counts.items())


def _by_class(side: Mapping[str, Any], share: str) -> dict[str, float]:
    return {str(line["class"]): float(line[share]) for line in side["per_class"] if line[share] is not None}


def _both(sides: list[dict[str, float]], name: str) -> tuple[float, float] | None:
    before, after = sides
    return (before[name], after[name]) if name in before and name in after else None
