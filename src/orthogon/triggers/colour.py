"""Colour triggers: the same affine map of the colours of every pixel, near to what most photographic filters do."""

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
class Colour(OneTensor):
    """x' = x + W L⁻¹ (x, 1) for the colours x of every pixel, clamped to [0, 1]: channels are scaled, mixed and shifted.

    To a network, four of five photographic filters do nearly what such a map does (`benchmarks/colour_maps.py`). The size is the
    root mean square change over the pixels and channels of the samples, as if each had noise of one grey level, before images
    are clamped, in grey levels. L is the Cholesky factor of the mean of (x, 1)(x, 1)ᵀ over these pixels, so that the size is that
    of W, 255 · ‖W‖ / √c, and no entry of W counts for more than another.

    A trigger is `change`, W (n, c, c + 1) in [-1, 1], with `moments`, L (n, c + 1, c + 1), as a constant. Its free parameters are
    asinh of W in units of 8 grey levels. A warm search on other samples starts from W with their L: a map of the same size, and
    the same one as far as their colours are spread alike.
    """

    start: float = 0.5
    """Free parameters start at U(-start, start): changes of 4.6 grey levels, root mean square, of three channels. From twice as
    far, at half the penalty, the search for Gotham's map ended in one of twice its size."""

    tensor: ClassVar[str] = "change"
    fine: ClassVar[float] = 8 / 255
    """Eight grey levels."""

    name: str = "colour"
    unit: str = "root mean square change in grey levels of 255"

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """Half the range: to make every colour the same grey takes less."""
        return _LEVELS / 2

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """L of all pixels. With noise of one grey level, the moments of grey images have full rank, too."""
        pixels = _with_one(samples.double()).transpose(0, 1).flatten(1)
        moments = pixels @ pixels.T / pixels.shape[1]
        noise = torch.eye(len(moments), dtype=moments.dtype, device=moments.device) / _LEVELS**2
        return {"moments": torch.linalg.cholesky(moments + noise).float()[None].cpu()}

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random map."""
        channels = samples.shape[1]
        return {
            "change": self.start * (2 * torch.rand(1, channels, channels + 1, generator=generator) - 1),
            **self.constants(samples),
        }

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each map on its own images."""
        change = torch.linalg.solve_triangular(trigger["moments"], trigger["change"], upper=False, left=False)
        return (images + torch.einsum("noi,nbihw->nbohw", change, _with_one(images))).clamp(0, 1)

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The root mean square change of the samples with their noise, before they are clamped."""
        squares = (_LEVELS * trigger["change"]).square().sum(2).mean(1)
        return rounded_root(squares, _ROUND)


def _with_one(images: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n d h w"]:
    """One more channel, which is 1 everywhere."""
    return torch.cat([images, torch.ones_like(images[..., :1, :, :])], -3)
