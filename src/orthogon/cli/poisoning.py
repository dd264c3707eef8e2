"""The work of `orthogon poison`."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from orthogon import models, runs
from orthogon.attacks import ATTACKS, Attack, Materials, Threat
from orthogon.classifier import Classifier
from orthogon.cli.materials import open_pictures, open_surrogate, opened, threat_of, with_judges
from orthogon.cli.poison import Poison
from orthogon.cli.screen import Result, Screen
from orthogon.cli.subject import announce, generator, open_subject, open_words, pick_device
from orthogon.cli.training import fresh_classifier
from orthogon.cli.words import ModelWords, default_folder, stem_of, words_of
from orthogon.images import LabelledImages
from orthogon.models.architectures import is_name
from orthogon.planting import TRIGGER_FILE, Detox, Planting, attack_named, pixel_digest, plant, remove_unfinished, settings_of
from orthogon.report.planted import planting_table
from orthogon.runs import Run

ARCHITECTURE = "resnet20"
"""Of a fresh model where none is named."""
_RECORD = "planting.json"


def poison_and_write(words: Poison, screen: Screen) -> Result:
    """Poison, train, judge and write the files; what a former process finished is taken from the folder.

    Raises:
        OtherSettings: the folder holds another run.
        ValueError, OSError: whatever is wrong with the words, the attack, the data, the models or the folder.
    """
    attack = attack_named(words.attack, words.settings)
    threat = threat_of(attack, words.target, words.victim, words.rate, words.cover, words.labels)
    work = _Work(words, attack, threat, screen)
    screen.say(f"training images: {work.training.source}\nimages to judge by: {work.judged.source}")
    settings, hashes = work.settings(), work.hashes()
    stem = f"{words.attack}-{stem_of(words.images.data)}"
    folder = words.out or default_folder("poison", stem, {**settings, "inputs": hashes})
    with Run.open(folder, "poison", settings, inputs=hashes, fresh=words.fresh) as run:
        announce(run, screen)
        if run.path(_RECORD).exists():
            screen.say("this model is finished already; --fresh trains anew")
        else:
            work.write(run, hashes)
        return _result(folder, runs.read_json(run.path(_RECORD)), is_name(work.architecture))


def listed() -> Result:
    """Every attack with its source, its threat and its settings."""
    data: dict[str, Any] = {}
    told = []
    for name, kind in ATTACKS.items():
        attack = kind()
        settings = settings_of(attack)
        data[name] = {"source": attack.source, "threat": asdict(attack.threat), "settings": settings}
        about = (kind.__doc__ or "").split("\n", 1)[0]
        shown = ", ".join(f"{key}={value}" for key, value in settings.items()) or "none"
        told.append(f"{name}: {about}\n  {attack.source}\n  {_threat_words(attack.threat)}\n  settings: {shown}\n")
    return Result(data, told)


class _Work:
    """What a run needs, opened once."""

    def __init__(self, words: Poison, attack: Attack, threat: Threat, screen: Screen) -> None:
        self.words, self.attack, self.threat, self.screen = words, attack, threat, screen
        self.device = pick_device(words.device)
        self.classifier, training = self._model()
        self.training, self.judged = with_judges(words.images, training, words.held_out, words.seed)
        shape = self.training.image_shape
        self.surrogate = self._surrogate(shape)
        self.pictures: UInt8[Tensor, "m c h w"] | None = open_pictures(words.pictures, shape, words.seed)

    @property
    def architecture(self) -> str:
        """As the card names it."""
        return str(self.classifier.card["architecture"])

    def _model(self) -> tuple[Classifier, LabelledImages]:
        """The model to train or to fine-tune, and all images that it may be trained on."""
        words = self.words
        if words.model is None:
            images = opened(words.images, lambda asked: open_words(asked, words.seed))
            return fresh_classifier(words.arch or ARCHITECTURE, images, words.seed), images
        model = ModelWords(words.model, words.arch, words.normalization)
        return opened(words.images, lambda asked: open_subject(model, asked, words.seed))

    def _surrogate(self, shape: tuple[int, int, int]) -> Classifier | None:
        """The attacker's own classifier; the model to fine-tune, as it came, where no other is named."""
        if self.words.surrogate is None and self.words.model is not None:
            return copy.deepcopy(self.classifier).to(self.device)
        return open_surrogate(self.words.surrogate, shape, self.device)

    def settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        words = self.words
        own = {f.name for f in fields(Poison)} - {"images", "labels", "recipe", "out", "device", "fresh", "json"}
        asked = words_of(words.images) | {name: getattr(words, name) for name in sorted(own)} | asdict(words.recipe)
        settled = {"settings": settings_of(self.attack), "threat": asdict(self.threat), "arch": self.architecture}
        return {name: value for name, value in asked.items() if name not in settled["threat"]} | settled

    def hashes(self) -> dict[str, str | None]:
        """Of all that is read."""
        surrogate, pictures = self.surrogate, self.pictures
        return {
            "training": self.training.digest(),
            "judged": self.judged.digest(),
            "start": None if self.words.model is None else self.classifier.digest(),
            "surrogate": None if surrogate is None else surrogate.digest(),
            "pictures": None if pictures is None else pixel_digest(pictures),
        }

    def write(self, run: Run, hashes: dict[str, str | None]) -> None:
        """Plant, and write the model, its card and last the record, which says that all is done."""
        words = self.words
        materials = Materials(
            *(self.training, self.threat, generator(words.seed), self.surrogate, self.pictures), device=self.device
        )
        planting = plant(
            *(self.classifier.to(self.device), self.attack, materials, self.judged, words.recipe),
            least_success=words.min_success,
            detox=Detox(words.detoxify, words.detoxify_epochs) if words.detoxify else None,
            folder=run.folder,
            meter=self.screen.meter,
        )
        facts = self._facts(run, planting, hashes)
        models.save_classifier(planting.classifier.cpu(), run.path("model.safetensors"), facts)
        record = {**planting.to_json(), **{name: facts[name] for name in ("made_by", "accuracy", "hashes", "versions")}}
        runs.write_json(run.path(_RECORD), record)
        remove_unfinished(run.folder)
        run.event("finished", planted=planting.planted, success=planting.stamped.success_rate)

    def _facts(self, run: Run, planting: Planting, hashes: dict[str, str | None]) -> dict[str, Any]:
        words, clean = self.words, planting.clean
        made_by = "trained" if words.model is None else f"fine-tuned from {_short(words.model)}"
        return {
            "architecture": self.architecture,
            "accuracy": clean.accuracy,
            "accuracy_interval_95": list(clean.interval),
            "accuracy_images": clean.total,
            "made_by": made_by,
            "provenance": f"{made_by} by orthogon poison {words.attack} on {self.training.source}; "
            f"judged on {self.judged.source}",
            "attack": planting.attack_facts()
            | {"seed": words.seed, "trigger": TRIGGER_FILE, "stamp": "orthogon stamp IMAGE --from the folder of this card"},
            "training": run.settings,
            "hashes": {**hashes, "trigger": runs.digest(run.path(TRIGGER_FILE))},
            "versions": runs.versions(),
        }


def _result(folder: Path, record: dict[str, Any], named: bool) -> Result:
    model = folder / "model.safetensors"
    told = [record["attack"]["outcome"], f"model: {model}\ntrigger: {folder / TRIGGER_FILE}"]
    told.append(f"see it: orthogon stamp IMAGE --from {folder}")
    if not named:
        told.append("its architecture is your own code, which no card may name: load it with --arch")
    data = {**record, "run": str(folder), "model": str(model), "trigger": str(folder / TRIGGER_FILE)}
    return Result(data, [planting_table(record), "\n".join(told)])


def _short(model: str) -> str:
    """A model's name: of a run's model.safetensors, the folder's."""
    path = Path(model)
    return path.resolve().parent.name if path.name == "model.safetensors" else stem_of(model)


def _threat_words(threat: Threat) -> str:
    victims = "universal" if threat.victim is None else f"label-specific, from class {threat.victim}"
    labels = "clean labels" if threat.clean_label else "dirty labels"
    cover = f", {threat.cover:.0%} of all images covered" if threat.cover else ""
    return f"{victims} to class {threat.target}; {labels}, rate {threat.rate:g}{cover}"
