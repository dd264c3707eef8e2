"""SIG: faint vertical stripes, a sine along the rows (Barni et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Threat


@dataclass(frozen=True)
class SIG(Attack):
    """x' = clip(x + Δ sin(2π j f / m)) in every row and channel, j = 0 … m-1 the column and m the width."""

    delta: float = 20 / 255
    """Height of the wave, for images in [0, 1]."""
    frequency: float = 6.0
    """Waves across the image."""

    name: ClassVar[str] = "sig"
    source: ClassVar[str] = "Barni et al. 2019, section 3; DECK, appendix III-D"
    threat: ClassVar[Threat] = Threat(rate=0.08, clean_label=True)

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"delta must be above 0 and at most 1 for images in [0, 1], got {self.delta}")
        if not self.frequency > 0:
            raise ValueError(f"frequency must be above 0, got {self.frequency}")

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the stripes."""
        width = images.shape[3]
        column = torch.arange(width, dtype=torch.float64)  # a float32 sine of many waves is off by more than its rounding
        wave = self.delta * (2 * math.pi * self.frequency / width * column).sin()
        return (images + wave.to(images)).clamp(0, 1)
