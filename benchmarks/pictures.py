"""Pictures beside the benchmarks' figures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from orthogon import runs

ENLARGED = 3
"""Pixels of the file per pixel of an image."""


def write_rows(path: Path, rows: Sequence[Float[Tensor, "n 3 h w"]]) -> None:
    """Write a PNG of rows of images in [0, 1], all of one size and number; values outside are cut off."""
    grid = torch.stack(list(rows)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows h, n w, 3)
    large = grid.clamp(0, 1).repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1)
    content = io.BytesIO()
    Image.fromarray((large * 255).round().to(torch.uint8).numpy()).save(content, "PNG", optimize=True)
    runs.write_bytes(path, content.getvalue())


def difference(changed: Float[Tensor, "n 3 h w"], clean: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """What was changed, four times as strong, around grey."""
    return 0.5 + 4 * (changed - clean)
