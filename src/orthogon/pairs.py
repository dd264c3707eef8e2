"""Class pairs, and what an inversion says about one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch

from orthogon.triggers import Trigger


@dataclass(frozen=True)
class Pair:
    """A victim class and a target class, by number; victim None stands for every class but the target."""

    victim: int | None
    target: int


class Outcome(StrEnum):
    """How an inversion ended. Only `FOUND` has a distance."""

    FOUND = "found"
    ASR = "asr not reached"
    SAMPLES = "too few samples"
    NOT_FINITE = "not finite"


@dataclass(frozen=True, eq=False)
class Inversion:
    """The smallest trigger found for a pair, as the judge measured it in float32."""

    pair: Pair
    outcome: Outcome
    size: float
    """In the family's unit; NaN unless found."""
    asr: float
    """Share of the pair's samples that the trigger turns into the target, 0 to 1; NaN where nothing was tried."""
    trigger: Trigger
    """Its tensors, without a leading dimension; where none was found, how far the first search got; empty if untried."""
    restarts: tuple[float, ...] = ()
    """Sizes that the searches kept to the end have found, each on its own."""
    steps: int = 0
    """Gradient steps of the longest search."""
    weight: float = math.nan
    """Of the size against the loss when the search ended: a later search of the pair starts well from it."""

    @property
    def spread(self) -> float:
        """Standard deviation of the size over the searches kept to the end; NaN with fewer than two."""
        return float(torch.tensor(self.restarts).std()) if len(self.restarts) > 1 else math.nan


def choose_pairs(spec: str, classes: int, generator: torch.Generator) -> list[Pair]:
    """The pairs that a text names.

    Args:
        spec: "all"; "0-1,2-5" (victim-target); "*-3" (every other class to 3); "universal" (the same for every target);
            "random:20" (as many different pairs, drawn).
        classes: how many there are.
        generator: of the draw.

    Raises:
        ValueError: naming the part that is not a pair of this many classes.
    """
    every = [Pair(a, b) for a in range(classes) for b in range(classes) if a != b]
    if spec == "all":
        return every
    if spec == "universal":
        return [Pair(None, target) for target in range(classes)]
    if spec.startswith("random:"):
        count = _number(spec.removeprefix("random:"), spec)
        if not 1 <= count <= len(every):
            raise ValueError(f"--pairs {spec}: {classes} classes have {len(every)} pairs; ask for 1 to {len(every)}")
        drawn = torch.randperm(len(every), generator=generator)[:count].tolist()
        return [every[i] for i in sorted(drawn)]
    return list(dict.fromkeys(_pair(part, classes) for part in spec.split(",")))


def _pair(text: str, classes: int) -> Pair:
    victim, dash, target = text.strip().partition("-")
    if not dash:
        raise ValueError(f"--pairs: {text!r} is not a pair; write victim-target, as in 0-1, or *-1 for every victim")
    b = _number(target, text)
    a = None if victim == "*" else _number(victim, text)
    return require_pair(Pair(a, b), classes, f"--pairs: {text!r}")


def require_pair(pair: Pair, classes: int, where: str) -> Pair:
    """The pair, if it is one of two of so many classes; else a ValueError that begins with `where`."""
    if not all(c is None or 0 <= c < classes for c in (pair.victim, pair.target)):
        raise ValueError(f"{where} names a class outside 0 to {classes - 1}")
    if pair.victim == pair.target:
        raise ValueError(f"{where} has the same victim and target")
    return pair


def _number(text: str, where: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"--pairs: {text!r} in {where!r} is not a whole number")
    return int(text)
