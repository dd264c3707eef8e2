"""What a scanner has found: a score, the pairs that it points to, their triggers, and what speaks against believing it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.evaluate import Stamp
from orthogon.matrix import plain
from orthogon.pairs import Inversion, Pair
from orthogon.triggers import Trigger, TriggerFamily


@dataclass(frozen=True, eq=False)
class Suspect:
    """A pair that a scanner points to."""

    pair: Pair
    """Victim None: every class but the target."""
    score: float
    """Of this pair alone, on the scale of the evidence's score."""
    family: str | None = None
    """Of its trigger; None where the scanner looks for none."""
    inversion: Inversion | None = None

    def to_json(self, classes: Sequence[str], unit: str | None) -> dict[str, Any]:
        """Plain values for a result file, without the trigger's tensors."""
        found = self.inversion
        return {
            "victim": self.pair.victim,
            "target": self.pair.target,
            "victim_name": None if self.pair.victim is None else classes[self.pair.victim],
            "target_name": classes[self.pair.target],
            "score": plain(self.score),
            "family": self.family,
            "size": None if found is None else plain(found.size),
            "unit": unit,
            "success_rate": None if found is None else plain(found.asr),
            "outcome": None if found is None else str(found.outcome),
        }


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one scan has found."""

    score: float
    """The higher, the more suspicious, on the scanner's own scale; NaN where it could not be told."""
    suspects: tuple[Suspect, ...] = ()
    """The most suspicious pairs, the most suspicious first, whether or not they are suspicious enough."""
    features: Mapping[str, float] = field(default_factory=dict)
    """Numbers beside the score that a calibration may be fitted on; always the same names for one scanner."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How it came about, JSON-like."""
    doubts: tuple[str, ...] = ()
    """Why a low score does not show that there is no backdoor."""

    @property
    def told(self) -> bool:
        """Whether there is a score."""
        return math.isfinite(self.score)

    @property
    def measured(self) -> dict[str, float]:
        """The features with the score among them: what a calibration turns into a probability."""
        return {**self.features, "score": self.score}


def stamp_of(family: TriggerFamily, trigger: Trigger, device: torch.device) -> Stamp:
    """A found trigger, without a leading dimension, as what it does to a batch of images in [0, 1] on a device."""
    one = {name: value.to(device)[None] for name, value in trigger.items()}

    def stamp(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        with torch.no_grad():
            return family.stamp(one, images[None])[0]

    return stamp
