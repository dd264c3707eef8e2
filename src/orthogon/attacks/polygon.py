"""Polygon triggers, as NIST's TrojAI competition plants them in traffic signs (rounds 1 to 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, fitted

_TRIES = 200
"""Outlines to draw until one lies inside the image: of the largest that the source plants, 96 % do."""


@dataclass(frozen=True)
class Polygon(Attack):
    """A random filled polygon of one random colour covers part of the foreground, which is the middle of the image here.

    The source draws a place anew for each image; here it is drawn once, so that a stamp depends on the image alone.
    """

    smallest: float = 900 / 224**2
    """Least share of the image that it covers (MOTH, section VI-B: 903 to 6,021 pixels of 224²)."""
    largest: float = 6000 / 224**2
    """Largest share of the image that it covers."""
    fewest_sides: int = 3
    most_sides: int = 12
    foreground: float = 0.5
    """Side of the middle part in which its centre lies, as a share of the image's side."""

    name: ClassVar[str] = "polygon"
    source: ClassVar[str] = "TrojAI rounds 1 to 4 (NIST 2020); MOTH, section VI-B"
    threat: ClassVar[Threat] = Threat(target=0, victim=1)

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 1:
            raise ValueError(f"shares must be 0 < smallest <= largest <= 1, got {self.smallest} and {self.largest}")
        if not 3 <= self.fewest_sides <= self.most_sides:
            raise ValueError(f"a polygon has 3 sides or more, fewest to most, got {self.fewest_sides} to {self.most_sides}")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"foreground must be from 0 to 1, got {self.foreground}")

    def make(self, materials: Materials) -> Made:
        """`mask` (1, h, w) of 0 and 1, `colour` (c, 1, 1), and `corners` (sides, 2), the outline's rows and columns in pixels.

        Raises:
            ValueError: no polygon of that area lies inside the image.
        """
        channels, height, width = materials.images.image_shape
        generator = materials.generator
        share = float(_uniform(self.smallest, self.largest, (), generator))
        pixels = max(1, round(share * height * width))
        mask, corners = self._drawn(pixels, height, width, generator)
        made = {"mask": mask[None].float(), "colour": torch.rand(channels, 1, 1, generator=generator), "corners": corners}
        return {name: tensor.to(materials.device) for name, tensor in made.items()}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the polygon."""
        mask = fitted(made["mask"], images)
        return images * (1 - mask) + made["colour"].to(images) * mask

    def _drawn(
        self, pixels: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "sides 2"]]:
        size = torch.tensor([height, width])
        for _ in range(_TRIES):
            outline = self._outline(pixels, generator)
            margin = (1 - self.foreground) / 2
            centre = size * _uniform(margin, 1 - margin, (2,), generator)
            corners = centre + outline
            if (corners >= 0).all() and (corners <= size).all():
                return _filled(outline, centre, pixels, height, width), corners
        raise ValueError(f"no polygon of {pixels} pixels fits on images of {height}×{width}: lower smallest and largest")

    def _outline(self, pixels: int, generator: torch.Generator) -> Float[Tensor, "sides 2"]:
        """Corners (row, column) around their centre, which sees them all, enclosing an area of `pixels`."""
        sides = int(torch.randint(self.fewest_sides, self.most_sides + 1, (), generator=generator))
        turn, uneven = _uniform(0.0, 1.0, (), generator), _uniform(0.0, 0.4, (sides,), generator)
        angle = 2 * math.pi * ((torch.arange(sides) + uneven) / sides + turn)
        corners = torch.stack([angle.sin(), angle.cos()], 1) * _uniform(0.5, 1.0, (sides, 1), generator)
        area = _cross(corners, corners.roll(-1, 0)).sum().abs() / 2
        return corners * (pixels / area).sqrt()


def _filled(
    outline: Float[Tensor, "sides 2"], centre: Float[Tensor, " 2"], pixels: int, height: int, width: int
) -> Bool[Tensor, "h w"]:
    """The `pixels` pixels that lie deepest inside.

    From its centre a polygon reaches a pixel when it is scaled by g: the pixel is then on side (a, b), so it is αa + βb with
    α + β = g and both not negative. Those of the smallest g fill a polygon of this shape with exactly that many pixels.
    """
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixel = (torch.stack([rows, columns], 2) - centre)[:, :, None]  # (h, w, 1, 2) beside (sides, 2)
    a, b = outline, outline.roll(-1, 0)
    along_a, along_b = _cross(pixel, b) / _cross(a, b), _cross(a, pixel) / _cross(a, b)
    between = (along_a >= -1e-6) & (along_b >= -1e-6)
    scale = (along_a + along_b).where(between, math.inf).amin(2)
    return (
        torch.zeros(height * width, dtype=torch.bool)
        .index_fill_(0, scale.flatten().argsort(stable=True)[:pixels], True)
        .view(height, width)
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)
