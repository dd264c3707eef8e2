"""Small pictures as data: URIs."""

from __future__ import annotations

import base64
import io

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

LONGEST = 96
"""Pixels of a picture's longer side in the page; larger samples are shrunk, smaller ones stay as they are."""


def image_uri(pixels: UInt8[Tensor, "c h w"]) -> str:
    """A PNG of an image; three channels are colours, any other number is shown as its grey mean."""
    if pixels.shape[0] != 3:
        pixels = pixels.float().mean(0, keepdim=True).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return _png(Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0]))


def mask_uri(mask: Float[Tensor, "1 h w"]) -> str:
    """A mask in [0, 1] as a grey picture, its largest value white."""
    shown = _peaks(mask.nan_to_num(0.0).clamp(0, 1))
    return image_uri((shown / shown.max().clamp(min=1e-6) * 255).round().to(torch.uint8))


def shift_uri(means: Float[Tensor, "2 c"], deviations: Float[Tensor, "2 c"]) -> str:
    """Six colours: the mean, in the middle, and one deviation above and below it; left of the samples, right of the filter."""
    steps = torch.tensor([1.0, 0.0, -1.0]).repeat_interleave(2)
    columns = means[..., None] + deviations[..., None] * steps
    colours = columns.permute(1, 2, 0).repeat_interleave(3, 2).nan_to_num(0.0)
    return image_uri((colours.clamp(0, 1) * 255).round().to(torch.uint8))


def difference_uri(clean: UInt8[Tensor, "c h w"], stamped: UInt8[Tensor, "c h w"]) -> str:
    """What stamping changed, signed around middle grey and stretched so that the largest change is fully seen."""
    change = stamped.float() - clean.float()
    more, less = _peaks(change.clamp(min=0)), _peaks((-change).clamp(min=0))
    change = torch.where(more >= less, more, -less)
    stretched = 127.5 + 127.5 * change / change.abs().max().clamp(min=1.0)
    return image_uri(stretched.round().to(torch.uint8))


def _peaks(image: Float[Tensor, "c h w"]) -> Float[Tensor, "c small_h small_w"]:
    """Shrunk to LONGEST by the largest value within each pixel: a mean would make a trigger of few pixels vanish."""
    height, width = image.shape[1:]
    shrink = LONGEST / max(height, width)
    if shrink >= 1:
        return image
    return adaptive_max_pool2d(image, (max(1, round(height * shrink)), max(1, round(width * shrink))))


def _png(image: Image.Image) -> str:
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
