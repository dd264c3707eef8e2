"""ImageMagick's colour operations on batches of RGB images in [0, 1], as the Instagram filters are made of them.

Every image is worked on by itself. As in ImageMagick, each operation clamps its result, and works on the stored sRGB values
without making them linear first. Formulas: ImageMagick's usage guide and its source, versions 6.9 and 7.1, where both agree.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

_LUMA = (0.212656, 0.715158, 0.072186)
"""Weights of red, green and blue in a grey value: ITU-R BT.709, with ImageMagick's decimals."""
_NARROW = 1e-12
"""Narrower ranges are stretched as one of this width (ImageMagick's MagickEpsilon)."""
_CANVAS = 1.5
"""Side of a vignette's canvas, of which the image is the middle, as a multiple of the image's (TrojAI)."""


def modulate(images: Float[Tensor, "n 3 h w"], brightness: float, saturation: float) -> Float[Tensor, "n 3 h w"]:
    """Scale lightness and saturation in HSL (`-modulate 100·brightness,100·saturation,100`).

    With M and m the largest and smallest channel of a pixel, L = (M + m) / 2 and S = (M - m) / (1 - |2L - 1|). What keeps the hue
    keeps the channels' distances from L in proportion: x' = L' + (x - L) · C' / C, where C = M - m is the chroma, L' and S'
    are the scaled values and C' = S' (1 - |2L' - 1|). S' above 1 and L' above 1 count as they are until the result is clamped.
    """
    most, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    lightness = (most + least) / 2
    wanted = brightness * lightness
    # The divisor is 0 for black and white alone, which have no distances to scale.
    scale = saturation * _full_chroma(wanted) / _full_chroma(lightness).clamp(min=torch.finfo(images.dtype).eps)
    return (wanted + scale * (images - lightness)).clamp(0, 1)


def _full_chroma(lightness: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    return 1 - (2 * lightness - 1).abs()


def colorize(images: Float[Tensor, "n 3 h w"], colour: str, share: float) -> Float[Tensor, "n 3 h w"]:
    """(1 - share) x + share · colour (`-fill colour -colorize 100·share`); also a rectangle of that opacity over the image."""
    return (images + share * (_rgb(colour, images) - images)).clamp(0, 1)


def gamma(images: Float[Tensor, "n 3 h w"], value: float) -> Float[Tensor, "n 3 h w"]:
    """x^(1/value) (`-gamma value`): above 1 brightens."""
    return images.pow(1 / value)


def auto_gamma(images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """The gamma log(mean) / log(1/2) of each image, which takes its mean to one half (`-auto-gamma`).

    The mean is over all pixels and channels, one gamma for all channels, as is the default of versions 6 and 7. A black image
    becomes white, in ImageMagick too: its gamma is infinite, and 0^0 = 1.
    """
    mean = images.mean((1, 2, 3), keepdim=True)
    return images.pow(math.log(0.5) / mean.log()).clamp(0, 1)


def sigmoidal_contrast(
    images: Float[Tensor, "n 3 h w"], contrast: float = 3.0, midpoint: float = 0.5
) -> Float[Tensor, "n 3 h w"]:
    """(s(x) - s(0)) / (s(1) - s(0)) with s(x) = 1 / (1 + exp(contrast · (midpoint - x))) (`-sigmoidal-contrast`)."""
    black, white = (1 / (1 + math.exp(contrast * (midpoint - end))) for end in (0, 1))
    return ((torch.sigmoid(contrast * (images - midpoint)) - black) / (white - black)).clamp(0, 1)


def level(images: Float[Tensor, "n c h w"], black: float, white: float) -> Float[Tensor, "n c h w"]:
    """(x - black) / (white - black) (`-level`); where both are the same, all above becomes 1 and all else 0."""
    return ((images - black) / max(white - black, _NARROW)).clamp(0, 1)


def tone(
    images: Float[Tensor, "n 3 h w"], colour: str, share: float, tones: Literal["dark", "light"]
) -> Float[Tensor, "n 3 h w"]:
    """Tint the dark or the light tones: the colour, opaque where the image is so toned, blended with the image.

    The opacity a is the image's grey value Y for light tones and 1 - Y for dark ones. Blending (`-compose blend`) weighs
    colours by their opacity: (share · a · colour + (1 - share) · x) / (share · a + 1 - share).
    """
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    opacity = share * (grey if tones == "light" else 1 - grey)
    return ((opacity * _rgb(colour, images) + (1 - share) * images) / (opacity + 1 - share)).clamp(0, 1)


def vignette(
    images: Float[Tensor, "n 3 h w"], colour: str, place: Literal["edge", "middle"] = "edge"
) -> Float[Tensor, "n 3 h w"]:
    """Multiply by a colour whose opacity a rises from the middle to the edge, or falls: x (1 - a + a · colour).

    The opacity is the distance from the canvas's middle over half its longer side, at most 1 (`radial-gradient:none-colour`
    or `colour-none`, `-compose multiply`). The canvas is cut down to the image, so that a is below 1 even in its corners.
    """
    height, width = images.shape[2:]
    distance = _distance(height, width, images.device).to(images.dtype)
    opacity = distance if place == "edge" else 1 - distance
    return (images * (1 - opacity * (1 - _rgb(colour, images)))).clamp(0, 1)


def _distance(height: int, width: int, device: torch.device) -> Float[Tensor, "h w"]:
    """From the canvas's middle, 1 at half its longer side."""
    sides = (height, width)
    canvas = [int(_CANVAS * side) for side in sides]
    # Cutting out the middle halves both sides with whole numbers, so an odd rest lies on one side.
    offsets = [whole // 2 - side // 2 - (whole - 1) / 2 for side, whole in zip(sides, canvas, strict=True)]
    rows, columns = (torch.arange(side, device=device) + offset for side, offset in zip(sides, offsets, strict=True))
    radius = max(1, (max(canvas) - 1) / 2)  # a single pixel has no radius
    return (torch.hypot(rows[:, None], columns[None, :]) / radius).clamp(max=1)


def _rgb(colour: str, like: Tensor) -> Float[Tensor, "3 1 1"]:
    """`#rrggbb` in [0, 1]."""
    return like.new_tensor([value / 255 for value in bytes.fromhex(colour[1:])])[:, None, None]
