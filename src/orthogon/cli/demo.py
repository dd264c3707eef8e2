"""`orthogon demo`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.measure import Measure
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Fresh, ImageWords, Json, ModelWords, Seed

SIGNS = "signs:classes=6,size=20"
"""The smallest problem whose report is still worth reading: 30 pairs."""
EPOCHS = 10
"""Enough for 95 % of unseen signs."""


@dataclass(frozen=True)
class Demo(Command):
    """See it all on built-in data, without a network: train a small model on synthetic traffic signs, measure its class
    distances, write the report. Takes about a minute on two processor cores.

    Examples:
      orthogon demo
      orthogon demo --out my-demo --fresh
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/demo")
    """Folder of the model and its measurement."""
    seed: Seed = 0
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Train, then measure the trained model on signs that it has not seen."""
        from orthogon.cli.train import Train
        from orthogon.recipe import TrainingSettings

        screen.say("1 of 2: training a small classifier of traffic signs")
        trained = Train(
            ImageWords(f"{SIGNS},per_class=250"),
            recipe=TrainingSettings(epochs=EPOCHS, batch=64),
            seed=self.seed,
            out=self.out / "model",
            device=self.device,
            fresh=self.fresh,
        ).run(screen)
        screen.say(f"accuracy on unseen signs: {trained.data['accuracy']:.1%}")
        screen.say("2 of 2: measuring how small a patch turns one sign into another")
        measured = Measure(
            ModelWords(trained.data["model"]),
            ImageWords(f"{SIGNS},per_class=100"),
            protocol="screen",
            seed=self.seed,
            out=self.out / "distances",
            device=self.device,
            fresh=self.fresh,
        ).run(screen)
        *tables, last = measured.shown
        return Result({**measured.data, "model_file": trained.data["model"]}, [*tables, _told(trained.data["model"]), last])


def _told(model: str) -> str:
    """What was just measured, and what to try next."""
    return (
        "\nFor every pair of signs, this is the size of the smallest patch found that makes the model take at least 90 % of the\n"
        "pictures of one sign (row) for the other (column): small numbers are weaknesses, and nobody had to plant them.\n"
        "Next, look at the patches in the report, measure a pair more thoroughly, or your own model with your own images:\n"
        f"  orthogon measure --model {shlex.quote(model)} --data {SIGNS},per_class=100 --pairs 0-1 --protocol fast\n"
        "  orthogon measure --model net.safetensors --arch resnet20 --data images/\n"
    )
