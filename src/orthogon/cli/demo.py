"""`orthogon demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.measure import Measure
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Fresh, ImageWords, Json, ModelWords, Seed


@dataclass(frozen=True)
class Demo(Command):
    """See it all on built-in data, without a network: train a small model on synthetic traffic signs, measure its class
    distances, write the report. Takes two or three minutes on two processor cores.

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
        from orthogon.training import TrainingSettings

        screen.say("1 of 2: training a small classifier of traffic signs")
        trained = Train(
            ImageWords("signs:classes=10,size=32,per_class=250"),
            recipe=TrainingSettings(epochs=8),
            seed=self.seed,
            out=self.out / "model",
            device=self.device,
            fresh=self.fresh,
        ).run(screen)
        screen.say(f"accuracy on unseen signs: {trained.data['accuracy']:.1%}")
        screen.say("2 of 2: measuring how small a patch turns one sign into another")
        measured = Measure(
            ModelWords(trained.data["model"]),
            ImageWords("signs:classes=10,size=32,per_class=100"),
            protocol="screen",
            seed=self.seed,
            out=self.out / "distances",
            device=self.device,
            fresh=self.fresh,
        ).run(screen)
        return Result({**measured.data, "model_file": trained.data["model"]}, measured.shown)
