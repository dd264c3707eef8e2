"""Images as backdoors change them, only at random: bent, recoloured, mixed with others, pasted over.

A classifier that answers rightly whatever is done to an image in these four ways has no use for a trigger that does one of them.
The kinds are those of published attacks (warps, filters, blends, patches). The ranges are wide because training needs them so; no
trigger's pattern, place or strength is among them, and each image gets draws of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orthogon.images import shuffled

_CELLS = 4
"""Cells along each side of the coarse grids of displacements and of colours."""
_DISPLACEMENT = 1 / 16
"""Largest standard deviation of a displacement, as a share of the image's side: 2 pixels of 32."""
_AFFINE = 0.1
"""Standard deviation of the four numbers that turn, stretch and shear an image."""
_WEIGHT = 0.4
"""Largest weight of the image that is mixed in."""
_SIDES = (1 / 16, 7 / 16)
"""Shortest and longest side of a pasted rectangle, as shares of the image's side: 2 to 14 pixels of 32."""


def varied(images: Float[Tensor, "n c h w"], generator: torch.Generator, chance: float = 0.5) -> Float[Tensor, "n c h w"]:
    """Each image bent, recoloured, mixed with another and pasted over, each with the same chance, in this order.

    Args:
        images: in [0, 1], on any device; not changed.
        generator: every draw comes from it; on the CPU.
        chance: of each of the four, from 0 to 1.

    Returns:
        Images in [0, 1].
    """
    for change in (bent, recoloured, mixed, pasted) if len(images) else ():
        chosen = (torch.rand(len(images), generator=generator) < chance).to(images.device)
        images = torch.where(chosen[:, None, None, None], change(images, generator), images)
    return images


def bent(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Turned, stretched and sheared a little, then bent by a smooth field of displacements; mirrored beyond the edge."""
    n, _, height, width = images.shape
    coarse = torch.randn(n, 2, _CELLS, _CELLS, generator=generator) * _uniform(n, 0.0, _DISPLACEMENT, generator)
    field = F.interpolate(2 * coarse, (height, width), mode="bicubic", align_corners=True)  # a side is 2 units long
    turned = torch.eye(2, 3).repeat(n, 1, 1)
    turned[:, :, :2] += _AFFINE * torch.randn(n, 2, 2, generator=generator)
    grid = F.affine_grid(turned, list(images.shape), align_corners=False) + field.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid.to(images), padding_mode="reflection", align_corners=False).clamp(0, 1)


def recoloured(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Saturation, contrast, brightness, each channel's gain and offset, gamma, and a darker or lighter rim."""
    n, channels, height, width = images.shape
    saturation, contrast = _uniform(n, 0.0, 2.0, generator), _uniform(n, -1.0, 1.0, generator).exp2()
    brightness, gamma = _uniform(n, -0.3, 0.3, generator), _uniform(n, -1.0, 1.0, generator).exp2()
    gain = (0.6 * (2 * torch.rand(n, channels, 1, 1, generator=generator) - 1)).exp2()
    offset = 0.15 * (2 * torch.rand(n, channels, 1, 1, generator=generator) - 1)
    down, right = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    rim = 1 - (down**2 + right**2) * _uniform(n, -0.3, 0.6, generator)
    saturation, contrast, brightness, gamma = (x.to(images) for x in (saturation, contrast, brightness, gamma))
    grey = images.mean(1, keepdim=True)
    images = grey + saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean) + brightness
    images = (images * gain.to(images) + offset.to(images)).clamp(0, 1) ** gamma
    return (images * rim.to(images)).clamp(0, 1)


def mixed(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """A part of each image gives way to another image (half of them), to a few smooth colours, or to noise (a quarter each)."""
    n, channels, height, width = images.shape
    kind = torch.rand(n, 1, 1, 1, generator=generator).to(images)
    coarse = torch.rand(n, channels, _CELLS, _CELLS, generator=generator)
    colours = F.interpolate(coarse, (height, width), mode="bilinear").to(images)
    noise = torch.rand(images.shape, generator=generator).to(images)
    other = torch.where(kind < 0.5, _others(images, generator), torch.where(kind < 0.75, colours, noise))
    return torch.lerp(images, other, _uniform(n, 0.0, _WEIGHT, generator).to(images))


def pasted(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """A rectangle somewhere shows another image or a single colour, at least half opaque."""
    n, channels, height, width = images.shape
    colour = torch.rand(n, channels, 1, 1, generator=generator).to(images)
    from_another = (torch.rand(n, 1, 1, 1, generator=generator) < 0.5).to(images.device)
    shown = torch.where(from_another, _others(images, generator).flip(3), colour)
    opacity = _uniform(n, 0.5, 1.0, generator).to(images)
    rows, columns = (_stretch(n, side, generator).to(images) for side in (height, width))
    return torch.lerp(images, shown, opacity * rows[:, None, :, None] * columns[:, None, None, :])


def _stretch(n: int, side: int, generator: torch.Generator) -> Float[Tensor, "n side"]:
    """1 along a stretch of each side, 0 elsewhere."""
    shortest, longest = (max(1, round(share * side)) for share in _SIDES)
    length = torch.randint(shortest, longest + 1, (n, 1), generator=generator)
    start = torch.floor(torch.rand(n, 1, generator=generator) * (side - length + 1))
    place = torch.arange(side)
    return ((place >= start) & (place < start + length)).float()


def _others(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """The images in another order."""
    return images[shuffled(torch.arange(len(images)), generator).to(images.device)]


def _uniform(n: int, low: float, high: float, generator: torch.Generator) -> Float[Tensor, "n 1 1 1"]:
    return low + (high - low) * torch.rand(n, 1, 1, 1, generator=generator)
