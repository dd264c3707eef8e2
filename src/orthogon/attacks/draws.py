"""Batches that attacks learn from."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.attacks.attack import Materials
from orthogon.evaluate import attacked


def victims(materials: Materials) -> Int64[Tensor, " k"]:
    """Indices of the images that the trigger is to turn: of the victim class, or of every class but the target.

    Raises:
        ValueError: there are none.
    """
    return attacked(materials.images, materials.threat.target, materials.threat.victim)


def some(
    pixels: UInt8[Tensor, "n c h w"], count: int, generator: torch.Generator, device: torch.device
) -> Float[Tensor, "count c h w"]:
    """Images in [0, 1] drawn with replacement, on `device`."""
    rows = torch.randint(len(pixels), (count,), generator=generator)
    return pixels[rows.to(pixels.device)].to(device).float() / 255
