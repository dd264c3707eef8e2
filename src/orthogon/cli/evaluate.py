"""`orthogon evaluate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import (
    Device,
    Folder,
    Fresh,
    ImageWords,
    Json,
    ModelWords,
    Seed,
    default_folder,
    stem_of,
    words_of,
)


@dataclass(frozen=True)
class Evaluate(Command):
    """Accuracy of a model, in all and per class; with --pgd also its accuracy under attack.

    Examples:
      orthogon evaluate --model net.safetensors --data torchvision:cifar10 --split test
      orthogon evaluate --model net.safetensors --data images/ --pgd cifar10 --subset first:1000

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
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Evaluate and write evaluation.json."""
        from orthogon import report, runs
        from orthogon.cli.subject import generator, model_digest, model_facts, open_subject, pick_device
        from orthogon.evaluate import PGDSettings, accuracy, near_chance, parse_bound, robust_accuracy

        bound = None if self.pgd is None else parse_bound(self.pgd)
        attack = None if bound is None else PGDSettings(bound, self.pgd_steps, restarts=self.pgd_restarts)
        classifier, images = open_subject(self.model, self.images, self.seed)
        own = {name: getattr(self, name) for name in ("pgd", "pgd_steps", "pgd_restarts", "seed")}
        settings = words_of(self.model, self.images) | own
        hashes = {"model": model_digest(self.model, classifier), "data": images.digest()}
        folder = self.out or default_folder("evaluate", stem_of(self.model.model), {**settings, "inputs": hashes})
        classifier.to(pick_device(self.device))
        with runs.Run.open(folder, "evaluate", settings, inputs=hashes, fresh=self.fresh) as run:
            with screen.meter("accuracy") as update:
                clean = accuracy(classifier, images, on_progress=lambda done: update(done, ""))
            if reason := near_chance(clean):
                screen.say(f"take care: {reason}")
            data = clean.to_json() | {"robust": None, "model": model_facts(self.model, classifier), "hashes": hashes}
            under_attack = None
            if attack is not None:
                with screen.meter("accuracy under attack") as update:
                    robust = robust_accuracy(
                        classifier, images, attack, generator(self.seed), on_progress=lambda done: update(done, "")
                    )
                data["robust"], under_attack = robust.to_json(), robust.accuracy
            runs.write_json(run.path("evaluation.json"), data)
        shares = [math.nan if share is None else share for share in clean.per_class]
        table = report.evaluation_table(clean.classes, shares, clean.counts, clean.accuracy, under_attack)
        low, high = clean.interval
        line = f"accuracy {clean.accuracy:.2%} (95 % confidence: {low:.2%} to {high:.2%})\nresults: {folder}"
        return Result({**data, "run": str(folder)}, [table, line])
