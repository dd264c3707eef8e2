"""What happened while a model was hardened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from orthogon.matrix import plain
from orthogon.pairs import Inversion, Outcome


@dataclass(frozen=True)
class Check:
    """One look at the model on held-out images."""

    step: int
    """Updates of the weights so far."""
    seconds: float
    """Since the start, over all processes that worked on it."""
    accuracy: float
    """On the held-out images, 0 to 1."""
    distance: float | None
    """Mean size of the latest triggers, in the family's unit: an estimate of training, not a measurement."""
    loss: float
    """Mean of what the updates since the last look made small: cross entropy, with the share of what the original teaches."""
    kept: bool
    """Whether this model replaced the one kept before."""


@dataclass(frozen=True)
class Restart:
    """A return to the last good state."""

    step: int
    reason: str


@dataclass(eq=False)
class History:
    """Everything that is told of a hardening, but its models."""

    checks: list[Check] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    """By part: warm-up, inversion, training, checks."""
    picks: dict[str, list[Any]] = field(default_factory=lambda: {"step": [], "victim": [], "target": [], "size": []})
    """One entry per direction and pick; the size is None where no trigger reached the success rate."""

    def pick(self, step: int, inversion: Inversion) -> None:
        """Note one inversion."""
        found = inversion.outcome is Outcome.FOUND
        entry = (step, inversion.pair.victim, inversion.pair.target, round(inversion.size, 3) if found else None)
        for column, value in zip(self.picks.values(), entry, strict=True):
            column.append(value)

    def spend(self, part: str, seconds: float) -> None:
        """Add to the time of a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @property
    def total_seconds(self) -> float:
        """Of all parts."""
        return sum(self.seconds.values(), 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        times = {"total": round(self.total_seconds, 1), **{part: round(s, 1) for part, s in self.seconds.items()}}
        return {
            "seconds": times,
            "checks": [{**asdict(c), "distance": None if c.distance is None else plain(c.distance)} for c in self.checks],
            "picks": self.picks,
            "restarts": [asdict(restart) for restart in self.restarts],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> History:
        """The history of a record."""
        seconds = {part: float(s) for part, s in record["seconds"].items() if part != "total"}
        checks = [Check(**check) for check in record["checks"]]
        return cls(checks, [Restart(**r) for r in record["restarts"]], seconds, {k: list(v) for k, v in record["picks"].items()})
