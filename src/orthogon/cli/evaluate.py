"""`orthogon evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, ModelWords, Seed


@dataclass(frozen=True)
class Evaluate(Command):
    """Accuracy of a model, in all and per class; with --pgd also under attack, with --stamp also on stamped images.

    Examples:
      orthogon evaluate --model net.safetensors --data torchvision:cifar10 --split test
      orthogon evaluate --model net.safetensors --data images/ --pgd cifar10 --subset first:1000
      orthogon evaluate --model net.safetensors --data images/ --stamp "x[27:31, 27:31] = 1" --target 8
      orthogon evaluate --model hardened.safetensors --data signs --stamp runs/poison-wanet-signs-1a2b3c4d

    The run folder gets evaluation.json.
    """

    model: ModelWords
    images: ImageWords
    pgd: Annotated[str | None, tyro.conf.arg(metavar="BOUND", help_behavior_hint="(default: no attack)")] = None
    """Attack within this L-infinity bound: the papers' for cifar10, svhn, gtsrb or lisa, or a number: 8/255, 0.03."""
    pgd_steps: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Gradient steps of the attack."""
    pgd_restarts: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Random starts of the attack."""
    stamp: Annotated[str | None, tyro.conf.arg(metavar="STAMP", help_behavior_hint="(default: none)")] = None
    """Tell the attack success rate and the robust accuracy with this stamp: a run folder of orthogon poison, a card, or a
    line: "x[27:31, 27:31] = 1", "clip(x + logo.png/255)"."""
    target: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: what the stamp's card says)")] = None
    """Class, by number, that stamped images are to be taken for."""
    victim: Annotated[str | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: what the stamp's card says)")] = None
    """Class, by number, whose images are stamped; any: every class but the target."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Evaluate and write evaluation.json."""
        from orthogon.cli.evaluating import evaluate_and_write

        return evaluate_and_write(self, screen)
