"""Which picture of a pool goes with an image: a function of the image alone, with no order or index to remember."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

_SPREAD, _RANGE, _PRIME = 2654435761, 2**31, 2147483629


def picks(images: Float[Tensor, "n c h w"], count: int) -> Int64[Tensor, " n"]:
    """For each image a number from 0 to `count` - 1 that its grey levels decide.

    A stamp sees images in [0, 1] and nothing else, neither an index nor a generator, so what it pairs an image with has to
    come from the pixels. The sum is one of integers, hence the same on every device and for every batch, and levels that
    differ by less than half count as equal, hence the same for an image that was stored and read again.

    Raises:
        ValueError: nothing to choose from.
    """
    if count < 1:
        raise ValueError(f"there is nothing to pick from: count must be at least 1, got {count}")
    levels = (images * 255).round().long().flatten(1)
    weights = torch.arange(1, levels.shape[1] + 1, device=images.device) * _SPREAD % _RANGE
    return (levels * weights).sum(1) % _PRIME % count


def require_size(pool: UInt8[Tensor, "m k a b"], images: Float[Tensor, "n c h w"]) -> None:
    """Raise ValueError where the pool's pictures are not of the images' shape."""
    if pool.shape[1:] != images.shape[1:]:
        shapes = ["×".join(map(str, t.shape[1:])) for t in (pool, images)]
        raise ValueError(f"the trigger was made for images of another size, {shapes[0]}, than these, {shapes[1]}: make it anew")
