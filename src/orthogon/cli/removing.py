"""The work of `orthogon remove`."""

from __future__ import annotations

import copy
from typing import Any

from safetensors.torch import load_file

from orthogon import models, report, runs
from orthogon.classifier import Classifier
from orthogon.cli.measuring import check_accuracy, told_networks
from orthogon.cli.removal_images import RemovalImages, open_removal
from orthogon.cli.remove import Remove
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, model_digest, model_facts, pick_device, read_as
from orthogon.cli.words import default_folder, stem_of, words_of
from orthogon.evaluate import AttackEvaluation, Evaluation, accuracy, attack_success
from orthogon.images import LabelledImages
from orthogon.layers import require_layers
from orthogon.machine import device_of
from orthogon.models.cards import given_model
from orthogon.naming import in_words, named, settings_of
from orthogon.recipe import TrainingSettings
from orthogon.removal import REMOVERS, Remover, remove
from orthogon.runs import Run

_MODEL, _RECORD = "model.safetensors", "removal.json"
_UNJUDGED = "unjudged.json"
"""What the repair has to say, until the judging is done too: a run that was interrupted there goes on with it."""


def remove_and_write(words: Remove, screen: Screen) -> Result:
    """Repair, write the repaired model, judge it and write the rest; what a former process finished is taken from the folder.

    Raises:
        NearChance: the model and the labels of the clean images disagree, and no --force.
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever else is wrong with the words, the model, the data or the folder.
    """
    remover = named(REMOVERS, "method", words.method, words.settings)
    screen.say("loading the model and the images")
    classifier, images = open_removal(words)
    _require_fit(words, remover, classifier)
    screen.say(f"clean images: {images.learned.source}\nimages to judge by: {images.judged.source}")
    own = {name: getattr(words, name) for name in ("method", "held_out", "test", "stamp", "stamped", "target", "victim")}
    own |= {"set": list(in_words(remover)), "layer": list(words.layers), "flip": words.flip, "seed": words.seed}
    settings = words_of(words.model, words.images) | own
    hashes = {"model": model_digest(words.model, classifier), **images.digests()}
    opened = remover.described()
    if networks := told_networks(opened.get("hardened_by", {})):
        screen.say(networks)
    inputs = {**hashes, **read_as(classifier), "method": settings_of(remover), **opened}
    stem = f"{words.method}-{stem_of(words.model.model)}"
    folder = words.out or default_folder("remove", stem, {**settings, "inputs": inputs})
    classifier.to(pick_device(words.device))
    with Run.open(folder, "remove", settings, inputs=inputs, fresh=words.fresh) as run:
        announce(run, screen)
        if run.path(_RECORD).exists():
            screen.say("this removal is finished already; --fresh repairs anew")
        else:
            _Work(words, run, screen, remover, classifier, images, hashes).write()
        return _result(run)


def listed() -> Result:
    """Every method with its source and its settings."""
    data: dict[str, Any] = {}
    told = []
    for name, kind in REMOVERS.items():
        settings = settings_of(kind())
        data[name] = {"source": kind.source, "settings": settings}
        about = (kind.__doc__ or "").split("\n", 1)[0]
        shown = ", ".join(f"{key}={value}" for key, value in settings.items()) or "none"
        told.append(f"{name}: {about}\n  {kind.source}\n  settings: {shown}\n")
    return Result(data, told)


def _require_fit(words: Remove, remover: Remover, classifier: Classifier) -> None:
    """Raise ValueError where the model lacks what the method or the user's words need, or what its own card would."""
    remover.check(classifier)
    require_layers(classifier, words.layers)
    if not isinstance(classifier.card.get("architecture"), str):
        raise ValueError(
            f"{words.model.model} is a whole network, whose architecture has no name: the repaired weights could not be loaded; "
            "give a file of weights, and --arch"
        )


class _Work:
    """The parts of a removal: first the repair, which sees the clean images; then, its model written, the judging."""

    def __init__(
        self,
        words: Remove,
        run: Run,
        screen: Screen,
        remover: Remover,
        classifier: Classifier,
        images: RemovalImages,
        hashes: dict[str, str],
    ) -> None:
        self.words, self.run, self.screen, self.remover = words, run, screen, remover
        self.classifier, self.images, self.hashes = classifier, images, hashes
        self.known: dict[str, Evaluation] = {}  # what the repair has measured already on the images to judge by

    def write(self) -> None:
        """All files; removal.json last, since it says that all is done."""
        repair, repaired = self._repaired()
        sides = {name: self._judged(model, name) for name, model in (("before", self.classifier), ("after", repaired))}
        clean = {name: seen for name, (seen, _) in sides.items()}
        trap = {name: seen.to_json() for name, (_, seen) in sides.items() if seen is not None}
        self._save(repaired, clean["after"])
        record = repair | {
            "accuracy": {"images": self.images.judged_are} | {name: seen.to_json() for name, seen in clean.items()},
            "stamped": trap or None,
            "classes": list(self.classifier.classes),
            "images": self._sources(),
            "model": model_facts(self.words.model, self.classifier),
            "hashes": {**self.hashes, "repaired": runs.digest(self.run.path(_MODEL))},
            "versions": runs.versions(),
        }
        runs.write_json(self.run.path(_RECORD), record)
        self.run.path(_UNJUDGED).unlink()
        self.run.event("finished", seconds=record["seconds"], accuracy=clean["after"].accuracy)

    def _repaired(self) -> tuple[dict[str, Any], Classifier]:
        """What the repair has to say, and its model; both from the folder where they are finished."""
        if self.run.path(_UNJUDGED).exists():
            self.screen.say("the model is repaired already; it is judged now")
            repaired = copy.deepcopy(self.classifier)
            repaired.network.load_state_dict(load_file(self.run.path(_MODEL)))
            return runs.read_json(self.run.path(_UNJUDGED)), repaired
        check_accuracy(self.run, self.classifier, self.images.learned, self.words.seed, self.words.force, self.screen)
        with self.screen.meter("repairing") as update:
            made = remove(
                *(self.classifier, self.images.learned, self.remover, generator(self.words.seed)),
                held_out=self.images.held_out,
                augmentation=TrainingSettings(flip=self.words.flip),
                layers=self.words.layers,
                force=True,  # the labels were compared above, on more images than the held-out ones
                on_progress=update,
            )
        if self.images.judged is self.images.held_out:
            self.known = {"before": made.before, "after": made.after}
        for note in made.notes:
            self.screen.say(note)
        repair = made.to_json()
        repair["held_out"] = {name: repair.pop(name) for name in ("before", "after")}
        self._save(made.classifier)
        runs.write_json(self.run.path(_UNJUDGED), repair)
        return repair, made.classifier

    def _judged(self, classifier: Classifier, title: str) -> tuple[Evaluation, AttackEvaluation | None]:
        clean = self.known[title] if title in self.known else self._accuracy(classifier, title)
        if (trap := self.images.trap) is None:
            return clean, None
        with self.screen.meter(f"stamped images {title}") as update:
            return clean, attack_success(
                *(classifier, trap.images, trap.stamp.on(device_of(classifier)), trap.target, trap.victim),
                described=trap.stamp.described,
                on_progress=lambda done: update(done, ""),
            )

    def _accuracy(self, classifier: Classifier, title: str) -> Evaluation:
        with self.screen.meter(f"accuracy {title}") as update:
            return accuracy(classifier, self.images.judged, on_progress=lambda done: update(done, ""))

    def _save(self, repaired: Classifier, judged: Evaluation | None = None) -> None:
        """The model and its card. What the card of the given model said of that model is kept apart: it holds no more."""
        words, images = self.words, self.images
        card = self.classifier.card
        repaired.card = {"architecture": card.get("architecture")}
        facts: dict[str, Any] = {} if judged is None else _accuracy_facts(judged)
        facts |= {
            "provenance": f"{words.model.model}, repaired by orthogon remove {words.method} on {images.learned.source}; "
            f"judged on {images.judged.source}",
            "removal": {"method": words.method, "source": self.remover.source, "settings": settings_of(self.remover)},
            "removal_run": self.run.settings,
            **given_model(card),
            "hashes": self.hashes,
            "versions": runs.versions(),
        }
        models.save_classifier(repaired, self.run.path(_MODEL), facts)

    def _sources(self) -> dict[str, Any]:
        images = self.images
        parts = {"clean": images.learned, "held_out": images.held_out, "judged": images.judged}
        stamped = None if images.trap is None else {**_source(images.trap.images), "stamp": images.trap.stamp.described}
        return {**{name: _source(part) for name, part in parts.items()}, "stamped": stamped}


def _source(images: LabelledImages) -> dict[str, Any]:
    return {"source": images.source, "count": len(images)}


def _accuracy_facts(seen: Evaluation) -> dict[str, Any]:
    return {"accuracy": seen.accuracy, "accuracy_interval_95": list(seen.interval), "accuracy_images": seen.total}


def _result(run: Run) -> Result:
    record = runs.read_json(run.path(_RECORD))
    model, page = run.path(_MODEL), report.write_report(run.folder)
    data = {key: value for key, value in record.items() if key != "history"}
    data |= {"run": str(run.folder), "model_file": str(model), "report": str(page)}
    return Result(data, [report.removal_table(record), f"model: {model}\nreport: {page}"])
