"""BadNets: a small square of one colour in a corner (Gu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat

Corner = Literal["top left", "top right", "bottom left", "bottom right"]


@dataclass(frozen=True)
class BadNets(Attack):
    """A square of one colour covers what was there."""

    size: int = 3
    """Height and width of the square in pixels."""
    colour: tuple[float, ...] = (1.0, 1.0, 0.0)
    """One value from 0 to 1 for each channel, or one for all; yellow, as the note on the source's stop sign."""
    corner: Corner = "bottom right"
    margin: int = 1
    """Pixels between the square and the two edges of its corner."""

    name: ClassVar[str] = "badnets"
    source: ClassVar[str] = "Gu et al. 2019, BadNets"
    threat: ClassVar[Threat] = Threat()

    def __post_init__(self) -> None:
        if self.size < 1 or self.margin < 0:
            raise ValueError(f"size must be at least 1 and margin at least 0, got {self.size} and {self.margin}")
        if not self.colour or not all(0 <= value <= 1 for value in self.colour):
            raise ValueError(f"colour takes values from 0 to 1, got {self.colour}")

    def make(self, materials: Materials) -> Made:
        """Nothing to draw.

        Raises:
            ValueError: the square is larger than the images, or its colour has another number of channels.
        """
        channels, height, width = materials.images.image_shape
        require_room(self.name, self.size, self.margin, (height, width))
        if len(self.colour) not in (1, channels):
            raise ValueError(
                f"colour {self.colour} has {len(self.colour)} values, the images {channels} channel(s): give 1 for all"
            )
        return {}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the square."""
        square = torch.tensor(self.colour).view(-1, 1, 1).expand(-1, self.size, self.size)
        return paste(images, square, *place(self.corner, self.size, self.margin, images.shape[-2:]))


def require_room(attack: str, size: int, margin: int, image: tuple[int, int]) -> None:
    """Raise ValueError where a square of `size` does not fit at `margin` from the edges of images of (height, width)."""
    if size + margin > min(image):
        raise ValueError(
            f"{attack}'s trigger of {size}×{size} pixels, {margin} from the edge, does not fit on images of {image[0]}×{image[1]}"
        )


def place(corner: Corner, size: int, margin: int, image: tuple[int, ...]) -> tuple[int, int]:
    """Row and column of the top left pixel of a square in that corner of images of (height, width)."""
    vertical, horizontal = corner.split()
    top = margin if vertical == "top" else image[0] - size - margin
    return top, margin if horizontal == "left" else image[1] - size - margin


def paste(images: Float[Tensor, "n c h w"], picture: Float[Tensor, "#c a b"], top: int, left: int) -> Float[Tensor, "n c h w"]:
    """Copies of the images, covered by the picture from that row and column on."""
    images = images.clone()
    images[:, :, top : top + picture.shape[1], left : left + picture.shape[2]] = picture.to(images)
    return images
