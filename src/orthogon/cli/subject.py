"""From words to a classifier and its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.data import open_images
from orthogon.images import LabelledImages
from orthogon.models import load_classifier
from orthogon.models.architectures import default_shape
from orthogon.models.cards import card_beside


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

    What one of them does not know is taken from the other: the images' size from the model, its class names from them.

    Raises:
        ValueError, OSError: whatever is wrong with the words, the checkpoint or the data.
    """
    shape = data.shape() or (None if _tells_shape(model) else open_words(data, seed, subset=False).image_shape)
    classifier = load_classifier(model.model, arch=model.arch, normalization=model.normalization, image_shape=shape)
    if classifier.classes != tuple(str(index) for index in range(len(classifier.classes))):
        return classifier, open_words(data, seed, image_shape=classifier.image_shape, classes=classifier.classes)
    images = open_words(data, seed, image_shape=classifier.image_shape)
    if len(images.classes) != len(classifier.classes):  # a part of the classes, by number, or an error that lists them
        return classifier, open_words(data, seed, image_shape=classifier.image_shape, classes=classifier.classes)
    classifier.classes = images.classes
    return classifier, images


def _tells_shape(model: ModelWords) -> bool:
    """Whether the model, its card or its architecture says what size of images it takes."""
    if model.model.startswith(("timm:", "torchvision:")):
        return True
    card = card_beside(Path(model.model))
    return card.image_shape is not None or default_shape(model.arch or card.architecture or "") is not None


def model_digest(model: ModelWords, classifier: Classifier) -> str:
    """SHA-256 of the checkpoint's file; of the tensors where a library fetched them."""
    path = Path(model.model)
    return runs.digest(path) if path.is_file() else classifier.digest()


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
