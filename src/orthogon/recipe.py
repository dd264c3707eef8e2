"""The settings of a training; apart from the training, so that the command line tells them without waiting for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orthogon.ranges import require


@dataclass(frozen=True)
class TrainingSettings:
    """How to fit a classifier; the defaults suit networks with BatchNorm on images of about 32×32."""

    epochs: int = 30
    """Passes over the images."""
    batch: int = 128
    """Images per step; all of them where there are fewer."""
    learning_rate: float = 0.2
    """The peak, for the mean loss of a batch."""
    warm_up: float = 0.2
    """Share of the steps on which the learning rate rises; it falls to zero over the rest (airbench: 0.2)."""
    momentum: float = 0.9
    """Of Nesterov's SGD."""
    weight_decay: float = 5e-4
    """On weights; never on biases and normalisation layers."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes; 0.1 often gains accuracy."""
    shift: float = 0.125
    """Longest random shift, as a share of the image's side (reflected at the edge); 0 turns it off."""
    flip: bool = False
    """Mirror half of the images; right for objects (CIFAR-10), wrong for digits and signs."""
    cutout: float = 0.0
    """Side of the covered square, as a share of the image's side; 0.25 suits long training; 0 turns it off."""
    average: float = 0.0
    """Decay per step of a moving average of the weights, which is the result; 0.999 suits long training; 0: off."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products; auto takes bfloat16 where the machine has instructions for it."""

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "batch"),
            positive=("learning_rate",),
            not_negative=("weight_decay",),
            shares=("cutout",),
            below_one=("warm_up", "momentum", "label_smoothing", "average"),
        )
        if not 0 <= self.shift <= 0.5:
            raise ValueError(f"shift must be from 0 to 0.5, got {self.shift}")
