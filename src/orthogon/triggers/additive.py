"""Additive triggers: the same faint picture is added to every image, as SIG's is and blended ones nearly are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.triggers.family import Notes, OneTensor, Seen, Trigger, rounded_root

_LEVELS = 255.0
"""Grey levels from black to white."""
_ROUND = 1e-4
"""Grey levels; sizes are rounded off below it, so that no change at all has a gradient."""


@dataclass(frozen=True)
class Additive(OneTensor):
    """x' = x + δ, clamped to [0, 1]; the size is the root mean square of δ over pixels and channels, in grey levels.

    A universal perturbation in the sense of Moosavi-Dezfooli et al. 2017. That the target of an imperceptible backdoor needs a
    much smaller one than other classes is how Xiang, Miller and Kesidis 2020 find it.

    A trigger is `change` (n, c, h, w) in [-1, 1]; its free parameters are asinh of it in units of 4 grey levels.
    """

    start: float = 1.0
    """Free parameters start at U(-start, start): changes of up to 4.7 grey levels."""

    tensor: ClassVar[str] = "change"
    fine: ClassVar[float] = 4 / 255
    """Four grey levels."""

    name: str = "additive"
    unit: str = "root mean square change in grey levels of 255"

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """The whole range."""
        return _LEVELS

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """None: a change means the same on any image."""
        return {}

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random change (1, c, h, w)."""
        return {"change": self.start * (2 * torch.rand(1, *samples.shape[1:], generator=generator) - 1)}

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each change on its own images."""
        return (images + trigger["change"][:, None]).clamp(0, 1)

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The root mean square of what is added, before images are clamped."""
        squares = (_LEVELS * trigger["change"]).square().mean((1, 2, 3))
        return rounded_root(squares, _ROUND)
