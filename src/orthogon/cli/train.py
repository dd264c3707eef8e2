"""`orthogon train`."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import torch
import tyro

from orthogon import models, report, runs
from orthogon.classifier import Classifier, Normalization
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.subject import generator, open_words, pick_device
from orthogon.cli.words import (
    Device,
    Folder,
    Fresh,
    ImageWords,
    Json,
    Seed,
    default_folder,
    stem_of,
    words_of,
)
from orthogon.data import DataError
from orthogon.evaluate import accuracy
from orthogon.images import LabelledImages
from orthogon.training import Epoch, TrainingSettings, fit


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
        training, judged = self._data()
        settings = words_of(self.images) | {name: getattr(self, name) for name in ("arch", "held_out", "seed")}
        settings |= asdict(self.recipe)
        hashes = {"training": training.digest(), "judged": judged.digest()}
        stem = f"{stem_of(self.arch)}-{stem_of(self.images.data)}"
        folder = self.out or default_folder("train", stem, {**settings, "inputs": hashes})
        with runs.Run.open(folder, "train", settings, inputs=hashes, fresh=self.fresh) as run:
            screen.say(f"{'going on with' if run.resumed else 'results go to'} {folder}")
            done = run.path("training.json")
            if done.exists():
                data = json_format.loads(done.read_text())
                screen.say("this training is finished already; --fresh trains anew")
            else:
                data = self._train(run, training, judged, hashes, screen)
        names = [entry["class"] for entry in data["per_class"]]
        shares = [entry["accuracy"] if entry["accuracy"] is not None else float("nan") for entry in data["per_class"]]
        counts = [entry["total"] for entry in data["per_class"]]
        table = report.evaluation_table(names, shares, counts, data["accuracy"])
        model = folder / "model.safetensors"
        return Result({**data, "run": str(folder), "model": str(model)}, [table, f"model: {model}"])

    def _train(
        self, run: runs.Run, training: LabelledImages, judged: LabelledImages, hashes: dict[str, str], screen: Screen
    ) -> dict[str, Any]:
        classifier = fresh_classifier(self.arch, training, self.seed).to(pick_device(self.device))
        checkpoint = run.path("checkpoint.safetensors")
        with screen.meter("training") as update:
            history = fit(
                classifier,
                training,
                self.recipe,
                generator(self.seed),
                checkpoint=checkpoint,
                on_progress=lambda done, last: update(done, _told(last)),
            )
        evaluation = accuracy(classifier, judged)
        facts = {
            "architecture": self.arch,
            "accuracy": evaluation.accuracy,
            "accuracy_interval_95": list(evaluation.interval),
            "accuracy_images": evaluation.total,
            "provenance": f"trained by orthogon train on {training.source}; judged on {judged.source}",
            "training": run.settings,
            "hashes": hashes,
            "versions": runs.versions(),
        }
        models.save_classifier(classifier.cpu(), run.path("model.safetensors"), facts)
        data = evaluation.to_json() | {"history": [asdict(epoch) for epoch in history]}
        runs.write_json(run.path("training.json"), data)
        checkpoint.unlink(missing_ok=True)
        run.event("finished", accuracy=evaluation.accuracy, seconds=round(sum(e.seconds for e in history), 1))
        return data

    def _data(self) -> tuple[LabelledImages, LabelledImages]:
        """Images to train on, and others to judge by: the data's own split, or a share held out by the seed."""
        words = self.images if self.images.split else replace(self.images, split="train")
        try:
            training = open_words(words, self.seed)
        except DataError:
            if self.images.split:
                raise
            training = open_words(self.images, self.seed)  # no split of that name: all there is
        others = replace(self.images, split=None, subset=None)
        judged = open_words(others, self.seed, image_shape=training.image_shape, classes=training.classes)
        whole = open_words(words, self.seed, subset=False) if self.images.subset else training
        if judged.digest() != whole.digest():
            return training, judged
        judged, training = training.split(self.held_out, generator(self.seed))
        return training, judged


def fresh_classifier(arch: str, images: LabelledImages, seed: int) -> Classifier:
    """An untrained classifier for these images, normalised by their mean and standard deviation per channel."""
    with torch.random.fork_rng():  # networks draw their first weights from the global generator
        torch.manual_seed(seed)
        network = models.build(arch, len(images.classes), images.image_shape)
    flat = images.pixels.transpose(0, 1).flatten(1)
    sums = [(channel.double().mean() / 255, channel.double().std() / 255) for channel in flat]
    mean, std = (tuple(round(float(value), 4) for value in values) for values in zip(*sums, strict=True))
    normalization = Normalization(mean, tuple(max(value, 1e-3) for value in std))
    return Classifier(network, images.classes, images.image_shape, normalization, {"architecture": arch})


def _told(epoch: Epoch | None) -> str:
    return "" if epoch is None else f"epoch {epoch.number}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.1%}"
