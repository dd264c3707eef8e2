"""WaNet: a smooth warp that no eye sees (Nguyen and Tran 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, fitted


@dataclass(frozen=True)
class WaNet(Attack):
    """Each pixel is fetched, bilinearly, from where one smooth random field points.

    The field is a k×k grid of U(-1, 1) offsets, divided by the mean of their absolute values and enlarged bicubically to the
    image. Added to the identity grid, whose ends are ±1, it is scaled by s over the image's height and width: the releases take
    the height for both, which is the same on their square images. The grid ends at the image's edges.
    """

    cells: int = 4
    """k, offsets along each side of the coarse grid."""
    strength: float = 0.5
    """s: a mean offset of s / 2 pixels at the grid's points."""
    rescale: float = 1.0
    """Of the whole grid; below 1 it keeps away from the edges."""

    name: ClassVar[str] = "wanet"
    source: ClassVar[str] = "Nguyen and Tran 2021, section 3, and their release"
    threat: ClassVar[Threat] = Threat(rate=0.1, cover=0.2)

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ValueError(f"cells must be at least 2, got {self.cells}")
        if not (self.strength > 0 and self.rescale > 0):
            raise ValueError(f"strength and rescale must be above 0, got {self.strength} and {self.rescale}")

    def make(self, materials: Materials) -> Made:
        """`grid` (2, h, w): x and y to fetch each pixel from, -1 at the centre of the first and 1 at that of the last.

        Raises:
            ValueError: images smaller than the coarse grid.
        """
        _, height, width = materials.images.image_shape
        if self.cells > min(height, width):
            raise ValueError(f"wanet's grid of {self.cells}×{self.cells} cells does not fit on images of {height}×{width}")
        offsets = 2 * torch.rand(1, 2, self.cells, self.cells, generator=materials.generator) - 1
        field = F.interpolate(offsets / offsets.abs().mean(), size=(height, width), mode="bicubic", align_corners=True)[0]
        grid = (identity_grid(height, width) + self.strength * field / _sides(height, width)) * self.rescale
        return {"grid": grid.clamp(-1, 1).to(materials.device)}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images, warped."""
        return warped(images, fitted(made["grid"], images).expand(len(images), -1, -1, -1))

    def cover(
        self, made: Made, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], materials: Materials
    ) -> Float[Tensor, "n c h w"]:
        """Noise mode: the grid with noise of U(-1, 1) over the height and width, drawn for each image."""
        n, _, height, width = images.shape
        noise = 2 * torch.rand(n, 2, height, width, generator=materials.generator) - 1
        grid = fitted(made["grid"], images) + (noise / _sides(height, width)).to(images)
        return warped(images, grid.clamp(-1, 1))


def identity_grid(height: int, width: int) -> Float[Tensor, "2 h w"]:
    """x and y of every pixel's centre, evenly from -1 to 1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([x, y])


def warped(images: Float[Tensor, "n c h w"], grid: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n c h w"]:
    """Each image, fetched from where its grid points, bilinearly."""
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), align_corners=True).clamp(0, 1)


def _sides(height: int, width: int) -> Float[Tensor, "2 1 1"]:
    return torch.tensor([width, height], dtype=torch.float32).view(2, 1, 1)
