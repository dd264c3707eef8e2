"""The work of `orthogon train`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from orthogon import models, report, runs
from orthogon.classifier import Classifier, Normalization
from orthogon.cli.materials import opened, with_judges
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, open_words, pick_device
from orthogon.cli.train import Train
from orthogon.cli.words import default_folder, stem_of, words_of
from orthogon.evaluate import accuracy
from orthogon.images import LabelledImages
from orthogon.models.architectures import is_name
from orthogon.training import Epoch, fit


def train_and_write(words: Train, screen: Screen) -> Result:
    """Train, judge on images not trained on, write the model and its card; a finished training is read again.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever is wrong with the words, the data or the folder.
    """
    training = opened(words.images, lambda asked: open_words(asked, words.seed))
    training, judged = with_judges(words.images, training, words.held_out, words.seed)
    screen.say(f"training images: {training.source}\nimages to judge by: {judged.source}")
    settings = words_of(words.images) | {name: getattr(words, name) for name in ("arch", "held_out", "seed")}
    settings |= asdict(words.recipe)
    hashes = {"training": training.digest(), "judged": judged.digest()}
    stem = f"{stem_of(words.arch)}-{stem_of(words.images.data)}"
    folder = words.out or default_folder("train", stem, {**settings, "inputs": hashes})
    with runs.Run.open(folder, "train", settings, inputs=hashes, fresh=words.fresh) as run:
        announce(run, screen)
        done = run.path("training.json")
        if done.exists():
            data = runs.read_json(done)
            screen.say("this training is finished already; --fresh trains anew")
        else:
            data = _train(words, run, training, judged, hashes, screen)
    names = [entry["class"] for entry in data["per_class"]]
    shares = [entry["accuracy"] for entry in data["per_class"]]
    counts = [entry["total"] for entry in data["per_class"]]
    table = report.evaluation_table(names, shares, counts, data["accuracy"])
    model = folder / "model.safetensors"
    told = f"model: {model}"
    if not is_name(words.arch):
        told += f"\nits architecture is your own code, which no card may name: load it with --arch {words.arch}"
    return Result({**data, "run": str(folder), "model": str(model)}, [table, told])


def _train(
    words: Train, run: runs.Run, training: LabelledImages, judged: LabelledImages, hashes: dict[str, str], screen: Screen
) -> dict[str, Any]:
    classifier = fresh_classifier(words.arch, training, words.seed).to(pick_device(words.device))
    checkpoint = run.path("checkpoint.safetensors")
    with screen.meter("training") as update:
        history = fit(
            classifier,
            training,
            words.recipe,
            generator(words.seed),
            checkpoint=checkpoint,
            on_progress=lambda done, last: update(done, _told(last)),
        )
    evaluation = accuracy(classifier, judged)
    facts = {
        "architecture": words.arch,
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


def fresh_classifier(arch: str, images: LabelledImages, seed: int) -> Classifier:
    """An untrained classifier for these images, normalised by their mean and standard deviation per channel."""
    with torch.random.fork_rng():  # networks draw their first weights from the global generator
        torch.manual_seed(seed)
        network = models.build(arch, len(images.classes), images.image_shape)
    levels = torch.arange(256, dtype=torch.float64)
    sums: list[tuple[float, float]] = []
    for channel in images.pixels.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256)  # exact, and no pixel becomes eight bytes
        mean = (counts * levels).sum() / counts.sum()
        variance = (counts * (levels - mean).square()).sum() / (counts.sum() - 1)
        sums.append((round(mean.item() / 255, 4), round(variance.sqrt().item() / 255, 4)))
    mean, std = zip(*sums, strict=True)
    normalization = Normalization(mean, tuple(max(value, 1e-3) for value in std))
    return Classifier(network, images.classes, images.image_shape, normalization, {"architecture": arch})


def _told(epoch: Epoch | None) -> str:
    return "" if epoch is None else f"epoch {epoch.number}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.1%}"
