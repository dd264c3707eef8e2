"""The distance matrix of a model, as a value and as a record; improvement between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DistanceMatrix:
    """Distances of a model's class pairs: rows are victims, columns targets, NaN where there is no distance."""

    values: Float[Tensor, "victims targets"]
    asr: Float[Tensor, "victims targets"]
    """Share of the samples that the pair's trigger turns, 0 to 1."""
    spread: Float[Tensor, "victims targets"]
    """Standard deviation of the size over the searches (or sample draws) of a pair."""
    outcomes: tuple[tuple[str | None, ...], ...]
    """As `inversion.Outcome`; None for a pair that was not measured."""
    classes: tuple[str, ...]
    unit: str
    protocol: str
    family: str
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is known: settings, versions, hashes, seconds, accuracy, universal triggers."""

    def mean(self) -> float:
        """Mean over the pairs that have a distance; NaN where none has."""
        return float(self.values[self.values.isfinite()].mean())

    def to_json(self) -> dict[str, Any]:
        """The record of distances.json; null stands for NaN."""
        grids = {"values": self.values, "asr": self.asr, "spread": self.spread}
        return {
            "unit": self.unit,
            "protocol": self.protocol,
            "family": self.family,
            "classes": list(self.classes),
            **{name: [[plain(v) for v in row] for row in grid.tolist()] for name, grid in grids.items()},
            "outcomes": [list(row) for row in self.outcomes],
            **self.facts,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DistanceMatrix:
        """The matrix of a record; `asr`, `outcomes` and `spread` may be missing.

        Whatever the record says there, the diagonal and pairs of another outcome than "found" have no distance.

        Raises:
            KeyError, TypeError, ValueError: the record is not one of distances.
        """
        known = {"unit", "protocol", "family", "classes", "values", "asr", "spread", "outcomes"}
        classes = tuple(str(name) for name in record["classes"])
        values = _grid(record["values"], len(classes))
        told = record.get("outcomes") or [[None if math.isnan(v) else "found" for v in r] for r in values.tolist()]
        if [len(row) for row in told] != [len(classes)] * len(classes):
            raise ValueError(f"outcomes must be {len(classes)} rows of {len(classes)}, got {[len(row) for row in told]}")
        outcomes = tuple(tuple(None if v == t else told[v][t] for t in range(len(classes))) for v in range(len(classes)))
        found = torch.tensor([[outcome == "found" for outcome in row] for row in outcomes])
        return cls(
            values=values.where(found, math.nan),
            asr=_grid(record.get("asr"), len(classes)),
            spread=_grid(record.get("spread"), len(classes)),
            outcomes=outcomes,
            classes=classes,
            unit=str(record["unit"]),
            protocol=str(record["protocol"]),
            family=str(record["family"]),
            facts={key: value for key, value in record.items() if key not in known},
        )


def improvement(before: DistanceMatrix, after: DistanceMatrix) -> float:
    """Average relative increase of the distance over the pairs that both matrices have (MOTH, Eq. 8); 1.0 is +100 %.

    NaN where no pair has both, and a pair of distance 0 before is left out: it has no relative increase.

    Raises:
        ValueError: the matrices differ in unit, family, classes, or in what the family measured by.
    """
    for name, old, new in differences(before, after):
        raise ValueError(f"distances of different {name} cannot be compared: {old} and {new}")
    growth = (after.values - before.values) / before.values
    return float(growth[growth.isfinite()].mean())


def differences(before: DistanceMatrix, after: DistanceMatrix) -> list[tuple[str, Any, Any]]:
    """What forbids to compare distances: its name, and what either matrix has there.

    Beside unit, family and classes that is what a family's sizes hang on (`TriggerFamily.described`), such as an encoder; not
    what that is called.
    """
    named = [(name, getattr(before, name), getattr(after, name)) for name in ("unit", "family", "classes")]
    different = [(name, old, new) for name, old, new in named if old != new]
    return different + measured_otherwise(before.facts.get("measured_by"), after.facts.get("measured_by"))


def measured_otherwise(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """In what two descriptions of a family differ: the name, and what either says; an encoder's name is not asked where its
    digest is the same."""
    one, other = _flat(before or {}), _flat(after or {})
    if one.get("encoder digest") == other.get("encoder digest"):
        one, other = ({name: fact for name, fact in told.items() if name != "encoder name"} for told in (one, other))
    rows = [(name, one.get(name), other.get(name)) for name in dict.fromkeys([*one, *other])]
    return [(name, old, new) for name, old, new in rows if old != new]


def _flat(told: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts by a name of their own: "encoder layer"."""
    rows: dict[str, Any] = {}
    for name, value in told.items():
        rows |= _flat(value, f"{prefix}{name} ") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows


def plain(number: float) -> float | None:
    """A number as JSON can hold it: None unless finite."""
    return number if math.isfinite(number) else None


def _grid(rows: Any, n: int) -> Float[Tensor, "n n"]:
    if rows is None:
        return torch.full((n, n), math.nan)
    if [len(row) for row in rows] != [n] * n:
        raise ValueError(f"a matrix of {n} classes needs {n} rows of {n}, got {[len(row) for row in rows]}")
    return torch.tensor([[math.nan if v is None else float(v) for v in row] for row in rows])
