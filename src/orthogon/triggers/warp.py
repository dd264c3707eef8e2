"""Warp triggers: every image is bent by the same smooth field of displacements, as WaNet's are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orthogon.triggers.family import Notes, OneTensor, Seen, Trigger, rounded_root

_ROUND = 1e-5
"""Pixels; lengths are rounded off below it, so that the zero field has a gradient."""


@dataclass(frozen=True)
class Warp(OneTensor):
    """Each pixel is fetched, bilinearly, from where a field of displacements points; beyond the edge there is the edge.

    The field is a coarse grid of displacements (n, 2, k, k), x and y in pixels, enlarged bicubically, as WaNet's is (Nguyen and
    Tran 2021, section 3.2); theirs has 4×4. The size is the mean length of the enlarged field's displacements. Free parameters
    are asinh of the displacements in units of a quarter of a pixel.
    """

    cells: int = 6
    """k: displacements along each side of the coarse grid; at least 2."""
    reach: float = 8.0
    """Longest displacement along either axis, in pixels."""
    start: float = 1.0
    """Free parameters start at U(-start, start): displacements of up to 0.29 pixels along either axis."""

    tensor: ClassVar[str] = "field"
    fine: ClassVar[float] = 0.25
    """A quarter of a pixel. A planted warp can be a tenth of a pixel long and natural ones are several: a search in pixels alone
    passed over the former."""

    name: str = "warp"
    unit: str = "mean displacement in pixels"

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ValueError(f"cells must be at least 2, got {self.cells}")
        if not (self.reach > 0 and self.start > 0):
            raise ValueError(f"reach and start must be above 0, got {self.reach} and {self.start}")

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """The longer side: a warp that works on a ResNet-20 is some hundredths of it."""
        return float(max(image_shape[1:]))

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """None: a field means the same on any image."""
        return {}

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random field (1, 2, k, k)."""
        return {"field": self.start * (2 * torch.rand(1, 2, self.cells, self.cells, generator=generator) - 1)}

    def furthest(self) -> float:
        """The reach, in pixels."""
        return self.reach

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each field on its own images."""
        n, each, _, height, width = images.shape
        moved = enlarged(trigger["field"], height, width) * 2 / _spans(images)
        grid = (_identity(images) + moved).permute(0, 2, 3, 1)
        grid = grid[:, None].expand(-1, each, -1, -1, -1).flatten(0, 1)
        warped = F.grid_sample(images.flatten(0, 1), grid, padding_mode="border", align_corners=True)
        return warped.view(n, each, *images.shape[2:])

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The mean length of the displacements at 4 × 4 points per cell, whatever the images."""
        squares = enlarged(trigger["field"], 4 * self.cells, 4 * self.cells).square().sum(1)
        return rounded_root(squares, _ROUND).mean((1, 2))


def enlarged(field: Float[Tensor, "n 2 k k"], height: int, width: int) -> Float[Tensor, "n 2 h w"]:
    """Coarse displacements at every pixel, bicubically; the grid ends at the centres of the outermost pixels."""
    return F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)


def _identity(images: Float[Tensor, "*n h w"]) -> Float[Tensor, "1 2 h w"]:
    """x and y of every pixel's centre, evenly from -1 to 1."""
    down, across = (torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device) for side in images.shape[-2:])
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([x, y])[None]


def _spans(images: Float[Tensor, "*n h w"]) -> Float[Tensor, "1 2 1 1"]:
    """Pixels from the first to the last, along x and y."""
    height, width = images.shape[-2:]
    return torch.tensor([width - 1, height - 1], dtype=images.dtype, device=images.device).clamp(min=1).view(1, 2, 1, 1)
