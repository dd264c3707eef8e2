"""The settings of a decoder's training; apart from the training, so that the command line tells them without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orthogon.ranges import require


@dataclass(frozen=True)
class DecoderSettings:
    """How to fit a decoder to a frozen encoder; DECK fixes the loss, the mean squared error, and leaves the rest open."""

    upsampling: Literal["random", "zero", "nearest", "swwae"] = "random"
    """What fills each 2×2 block beside its value: random draws (DECK), or its ablations zero, nearest and swwae."""
    steps: int = 4000
    """Updates of the weights."""
    batch: int = 16
    """Crops per step."""
    crop: int = 32
    """Side of the crops in pixels, a multiple of the encoder's stride."""
    reductions: tuple[int, ...] = (1, 2, 4)
    """Each batch is cut from photographs as large as they are, or reduced to a half or a quarter: small images are sharper."""
    learning_rate: float = 3e-3
    """The peak, for Adam."""
    warm_up: float = 0.1
    """Share of the steps on which the learning rate rises; it falls to zero over the rest."""
    held_out: float = 0.1
    """Share of the photographs kept for judging."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions; auto takes bfloat16 where the machine has instructions for it."""

    def __post_init__(self) -> None:
        require(self, counts=("steps", "batch", "crop"), positive=("learning_rate",))
        if not self.reductions or min(self.reductions) < 1:
            raise ValueError(f"reductions must be whole numbers from 1 up, got {self.reductions}")
        if not (0 < self.held_out < 1 and 0 < self.warm_up < 1):
            raise ValueError(f"held_out and warm_up must be between 0 and 1, got {self.held_out} and {self.warm_up}")
