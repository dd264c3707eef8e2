"""From words to a classifier and its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.cli.screen import Screen
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.data import aligned, open_images
from orthogon.images import LabelledImages
from orthogon.models import load_classifier
from orthogon.models.architectures import default_shape
from orthogon.models.cards import Card, card_beside

_PUBLISHED = ("timm:", "torchvision:")


def announce(run: runs.Run, screen: Screen) -> None:
    """Where the results go, and what computes otherwise than it did when the run was begun."""
    screen.say(f"{'going on with' if run.resumed else 'results go to'} {run.folder}")
    if run.moved:
        screen.say(f"take care: the run was begun otherwise, so that numbers may differ a little: {'; '.join(run.moved)}")


def generator(seed: int) -> torch.Generator:
    """A generator of the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def open_words(
    words: ImageWords,
    seed: int,
    *,
    image_shape: tuple[int, int, int] | None = None,
    classes: tuple[str, ...] | None = None,
    subset: bool = True,
) -> LabelledImages:
    """Open the images, at the size of --image-size or else at `image_shape`; `subset` says whether --subset counts.

    Raises:
        ValueError: whatever is wrong with the words or the data.
    """
    shape = words.shape() or image_shape
    images = open_images(words.data, split=words.split, image_shape=shape, classes=classes, seed=seed)
    return images.subset(words.subset, generator(seed)) if words.subset and subset else images


def open_subject(model: ModelWords, data: ImageWords, seed: int) -> tuple[Classifier, LabelledImages]:
    """The classifier and images of its shape, with labels in the order of its classes.

    What one of them does not know is taken from the other: the images' size from the model, its class names from them; the size
    from the images where the model does not tell. They are read once.

    Raises:
        ValueError, OSError: whatever is wrong with the words, the checkpoint or the data.
    """
    card = _card(model)
    shape = data.shape()
    if shape is None and not _tells_shape(model, card):
        images = open_words(data, seed, classes=_named(card.classes))
        shape = images.image_shape
        classifier = _classifier(model, shape)
    else:
        classifier = _classifier(model, shape)
        images = open_words(data, seed, image_shape=classifier.image_shape, classes=_named(classifier.classes))
    if _named(classifier.classes):
        return classifier, images
    if len(images.classes) != len(classifier.classes):  # a part of the classes, by number, or an error that lists them
        return classifier, aligned(images, classifier.classes)
    classifier.classes = images.classes
    return classifier, images


def _classifier(model: ModelWords, shape: tuple[int, int, int] | None) -> Classifier:
    return load_classifier(model.model, arch=model.arch, normalization=model.normalization, image_shape=shape)


def _named(classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Class names; None where they are but the numbers that nameless classes get."""
    return None if classes is None or classes == tuple(map(str, range(len(classes)))) else classes


def _card(model: ModelWords) -> Card:
    """The card beside the model; an empty one for weights that a library publishes."""
    return Card() if model.model.startswith(_PUBLISHED) else card_beside(Path(model.model))


def _tells_shape(model: ModelWords, card: Card) -> bool:
    """Whether the model, its card or its architecture says what size of images it takes."""
    if model.model.startswith(_PUBLISHED) or card.image_shape is not None:
        return True
    return default_shape(model.arch or card.architecture or "") is not None


def model_digest(model: ModelWords, classifier: Classifier) -> str:
    """SHA-256 of the checkpoint's file; of the tensors where a library fetched them."""
    path = Path(model.model)
    return runs.digest(path) if path.is_file() else classifier.digest()


def read_as(classifier: Classifier) -> dict[str, Any]:
    """What makes a model beside its weights, for a run's inputs: with another card, or other words for it, it is another run."""
    facts = {"architecture": classifier.card.get("architecture"), "normalization": repr(classifier.normalization)}
    facts |= {"image_shape": list(classifier.image_shape), "classes": runs.settings_digest({"names": list(classifier.classes)})}
    return {"read_as": facts}


def model_facts(model: ModelWords, classifier: Classifier) -> dict[str, Any]:
    """What a result file says of its model."""
    settled = {key: classifier.card.get(key) for key in ("architecture", "normalisation", "image_shape")}
    return {"name": model.model, **settled}


def pick_device(asked: str) -> torch.device:
    """The device of --device.

    Raises:
        ValueError: a GPU is asked for and PyTorch finds none.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no GPU here; use --device cpu")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")
