"""Poisoned models for `orthogon bench`: each with its trigger, clean images to repair it with, and images to judge it by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.classifier import Classifier, require_match
from orthogon.cli.bench import RemovalBench
from orthogon.cli.known_stamps import KnownStamp, open_stamp
from orthogon.cli.materials import opened, with_judges
from orthogon.cli.subject import generator, open_subject, open_words, read_as
from orthogon.cli.words import ModelWords
from orthogon.data.classes import few
from orthogon.images import LabelledImages
from orthogon.models.architectures import is_name
from orthogon.models.cards import card_beside

_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Poisoned:
    """A model with a known backdoor."""

    name: str
    """In tables and folders."""
    path: Path
    """Of its weights."""
    classifier: Classifier
    """On the CPU."""
    known: KnownStamp
    target: int
    clean: LabelledImages
    """What a remover gets."""
    test: LabelledImages
    left_out: int
    """Clean images that are among those of the test, too."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a result file says of it."""
        attack, classes = self.classifier.card.get("attack"), self.test.classes
        victim = self.known.victim
        return {
            "model": self.name,
            "path": str(self.path),
            "inputs": self.inputs,
            "stamp": self.known.described,
            "target": classes[self.target],
            "victim": None if victim is None else classes[victim],
            "planted": bool(attack["planted"]) if isinstance(attack, dict) and "planted" in attack else None,
            "clean": {"images": len(self.clean), "left_out": self.left_out, "data": self.clean.source},
            "test": {"images": len(self.test), "data": self.test.source},
        }

    @cached_property
    def inputs(self) -> dict[str, str]:
        """Digests of all that a repair depends on."""
        stamp = self.known.digest(self.test.image_shape)
        images = {"clean": self.clean.digest(), "test": self.test.digest()}
        read = runs.settings_digest(read_as(self.classifier))
        return {"model": runs.digest(self.path), "read": read, "stamp": stamp, **images}


def open_poisoned(words: RemovalBench) -> list[Poisoned]:
    """The models that are named, in their order.

    Raises:
        ValueError, OSError: one of them is no poisoned model, has other classes than the data, or two have one name; the message
            names it.
    """
    if not words.models:
        raise ValueError(
            "--models names no model: give run folders of `orthogon poison`, or checkpoints whose card has planted.stamp"
        )
    files = [weights_of(model) for model in words.models]
    kept: dict[str, LabelledImages] = {}
    models = [_opened(words, *pair) for pair in zip(files, names_of(files), strict=True)]
    return [replace(model, **{part: _shared(getattr(model, part), kept) for part in ("clean", "test")}) for model in models]


def weights_of(model: str) -> Path:
    """The file of a model; its folder may stand for it.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(model)
    file = path / _WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"--models {model}: there is no {file}; give a run folder of `orthogon poison`, a folder of the zoo or a checkpoint"
        )
    return file


def names_of(files: list[Path]) -> list[str]:
    """A short name for each, that of its folder or file, with more of the path before it where two have the same."""
    parts = [(file.resolve().parent if file.name == _WEIGHTS else file.resolve().with_suffix("")).parts[1:] for file in files]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(file for file in files if files.count(file) > 1) if len(set(files)) < len(files) else files[0]
    raise ValueError(f"--models names {twice} more than once")


def _opened(words: RemovalBench, file: Path, name: str) -> Poisoned:
    try:
        return _read(words, file, name)
    except (ValueError, OSError) as error:
        raise ValueError(f"--models {file}: {error}") from error


def _read(words: RemovalBench, file: Path, name: str) -> Poisoned:
    known = _stamp_of(file)
    if known.target is None:
        raise ValueError("its card tells no target class: write the class's number under planted.target")
    told = card_beside(file).architecture
    arch = None if told is not None and is_name(told) else words.arch
    model = ModelWords(str(file), arch)
    classifier, training = opened(words.images, lambda asked: open_subject(model, asked, words.seed))
    training, test = _parts(words, training)
    require_match(classifier, test)
    clean = training.subset(words.clean, generator(words.seed))
    apart = clean.without(test)
    if len(apart) == 0:
        raise ValueError(f"all {len(clean)} images of --clean {words.clean} are among the test images: name other test images")
    left_out = len(clean) - len(apart)
    poisoned = Poisoned(name, file, classifier, known, known.target, apart, test, left_out)
    _check(poisoned, words.clean)
    return poisoned


def _check(model: Poisoned, part: str) -> None:
    """Say before any work that a class lacks clean images, a target or victim is no class, or the trigger does not fit."""
    if scarce := [name for name, n in zip(model.clean.classes, model.clean.counts(), strict=True) if n < 2]:
        raise ValueError(
            f"--clean {part} has fewer than two images of {few([repr(name) for name in scarce])}: a class that is not shown "
            "would be forgotten; name a larger part, or data that have all classes of the model"
        )
    classes = len(model.test.classes)
    for role, number in (("target", model.target), ("victim", model.known.victim)):
        if number is not None and not 0 <= number < classes:
            raise ValueError(f"the {role} {number} of its attack is not one of the {classes} classes (0 and up)")
    try:
        model.known.digest(model.test.image_shape)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"its trigger does not fit on images {model.test.image_shape}: {error}") from error


def _stamp_of(file: Path) -> KnownStamp:
    card = file.with_suffix(".json")
    if not card.is_file():
        raise ValueError(f"there is no card {card.name} beside it that tells its attack: it is not known to be poisoned")
    facts = runs.read_json(card)
    if not isinstance(facts.get("attack"), dict) and not isinstance(facts.get("planted"), dict):
        raise ValueError(
            "its card tells of no attack, neither one of `orthogon poison` nor a planted.stamp: it is no poisoned model"
        )
    return open_stamp(str(card))


def _parts(words: RemovalBench, training: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Images to repair with, and to judge by: as `orthogon poison` divides the data, or as the words say."""
    if words.test_data is None and words.test_split is None:
        return with_judges(words.images, training, words.held_out, words.seed)
    asked = replace(words.images, data=words.test_data or words.images.data, split=words.test_split, subset=None)
    try:
        return training, open_words(asked, words.seed, image_shape=training.image_shape, classes=training.classes)
    except ValueError as error:
        raise ValueError(f"test images: {error} (--test-split and --test-data say which they are)") from error


def _shared(images: LabelledImages, kept: dict[str, LabelledImages]) -> LabelledImages:
    """The same images once for all models that have them."""
    return kept.setdefault(images.digest(), images)
