"""`orthogon train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, Seed
from orthogon.recipe import TrainingSettings


@dataclass(frozen=True)
class Train(Command):
    """Train a model with a fast recipe: one-cycle SGD, data on the device, augmentation by shifts.

    Examples:
      orthogon train --data signs:per_class=500 --arch resnet20 --epochs 10
      orthogon train --data torchvision:cifar10 --arch resnet20 --flip --epochs 60 --out models/mine

    The run folder gets model.safetensors with its card model.json (architecture, normalisation, classes, accuracy),
    which every command takes as --model. A training that was interrupted goes on from its last checkpoint.
    """

    images: ImageWords
    arch: Annotated[str, tyro.conf.arg(metavar="NAME")] = "resnet20"
    """resnet20, vgg13_bn, … (a wrong name lists them all), timm:NAME, torchvision:NAME or file.py:function."""
    recipe: TrainingSettings = field(default_factory=TrainingSettings)
    held_out: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.1
    """Share of each class kept for judging, where the data have no split of their own for it."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Train, judge on images not trained on, write the model and its card."""
        from orthogon.cli.training import train_and_write

        return train_and_write(self, screen)
