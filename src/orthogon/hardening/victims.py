"""Training images on the device, drawn by class: a pair's samples are drawn, not hoped for in a batch."""

from __future__ import annotations

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from orthogon.images import LabelledImages
from orthogon.pairs import Pair


class Victims:
    """Uniform draws, with replacement, from a pair's victim class; the cost of a draw does not grow with the classes.

    Args:
        images: of training, kept as bytes.
        device: where their pixels are kept.
    """

    def __init__(self, images: LabelledImages, device: torch.device) -> None:
        self.pixels: UInt8[Tensor, "n c h w"] = images.pixels.to(device)
        self.labels: Int64[Tensor, " n"] = images.labels
        self._order = images.labels.argsort(stable=True)
        self._counts = torch.bincount(images.labels, minlength=len(images.classes))
        self._first = self._counts.cumsum(0) - self._counts
        self.classes: list[int] = self._counts.nonzero().flatten().tolist()
        """Those that have images."""

    def draw(self, pair: Pair, count: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
        """Indices of images of the victim class; of all classes but the target, each alike, where there is no victim."""
        if pair.victim is not None:
            return self._of(torch.full((count,), pair.victim), generator)
        others = torch.tensor([c for c in self.classes if c != pair.target])
        return self._of(others[torch.randint(len(others), (count,), generator=generator)], generator)

    def draw_any(self, count: int, generator: torch.Generator) -> Int64[Tensor, " count"]:
        """Indices of any images."""
        return torch.randint(len(self.labels), (count,), generator=generator)

    def _of(self, classes: Int64[Tensor, " count"], generator: torch.Generator) -> Int64[Tensor, " count"]:
        counts = self._counts[classes]
        place = (torch.rand(len(classes), generator=generator) * counts).long().clamp(max=counts - 1)
        return self._order[self._first[classes] + place]
