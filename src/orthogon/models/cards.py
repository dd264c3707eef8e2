"""Model cards: the JSON file beside the weights that says what network they are for and what images it expects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.classifier import Normalization

CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMED: Mapping[str, Normalization | None] = {"none": None, "imagenet": IMAGENET, "cifar10": CIFAR10}

OF_THE_NETWORK = ("architecture", "normalisation", "classes", "image_shape")
"""What a card says of the network itself, whatever its weights are."""
_MOST_PIXELS = 4096
"""Along a side of the images that a card may claim: one is made to try the network."""
_SPELLINGS = ("normalisation", "normalization")


@dataclass(frozen=True)
class Card:
    """What a card says; None where it says nothing."""

    architecture: str | None = None
    """A name for `build`, or prose on strangers' cards."""
    normalization: Normalization | None = None
    """None also where the card says that there is none: see `says_normalization`."""
    says_normalization: bool = False
    classes: tuple[str, ...] | None = None
    """Class names in the order of the logits."""
    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The whole JSON object."""


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object, or one of its entries is not what it should be; the message names it.
    """
    try:
        facts = runs.read_json(path)
    except ValueError as error:
        raise ValueError(f"card {error}") from error
    key = next((spelling for spelling in _SPELLINGS if spelling in facts), None)
    try:
        return Card(
            architecture=_architecture(facts.get("architecture")),
            normalization=_normalization(facts[key]) if key else None,
            says_normalization=key is not None,
            classes=_classes(facts.get("classes")),
            image_shape=_image_shape(facts.get("image_shape")),
            facts=facts,
        )
    except ValueError as error:
        raise ValueError(f"card {path}: {error}") from error


def given_model(card: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model that was repaired or hardened: what the card of the given one said, kept apart, since it holds no more."""
    return {"given_model": {name: fact for name, fact in card.items() if name not in OF_THE_NETWORK}}


def card_beside(weights: Path) -> Card:
    """The card of the same name beside the weights; an empty card if there is none."""
    path = weights.with_suffix(".json")
    return read_card(path) if path.is_file() else Card()


def parse_normalization(text: str) -> Normalization | None:
    """Read "none", "imagenet", "cifar10", MEAN/STD such as "0.49,0.48,0.45/0.25,0.24,0.26", or the path of a card.

    Raises:
        ValueError: it is none of these, or the card says nothing about normalisation.
        FileNotFoundError: the card does not exist.
    """
    if text.lower() in NAMED:
        return NAMED[text.lower()]
    if text.endswith(".json"):
        card = read_card(Path(text))
        if not card.says_normalization:
            raise ValueError(f"card {text} says nothing about normalisation ({' or '.join(_SPELLINGS)})")
        return card.normalization
    mean, slash, std = text.partition("/")
    try:
        if not slash:
            raise ValueError("no '/' between means and standard deviations")
        return Normalization(_numbers(mean.split(",")), _numbers(std.split(",")))
    except ValueError as error:
        raise ValueError(
            f"normalization {text!r} is not understood ({error}); give MEAN/STD such as 0.49,0.48,0.45/0.25,0.24,0.26, "
            f"one of {', '.join(NAMED)}, or the path of a card (.json)"
        ) from error


def normalization_entry(normalization: Normalization | None) -> dict[str, list[float]] | None:
    """What a card holds under "normalisation"."""
    if normalization is None:
        return None
    return {"mean": list(normalization.mean), "std": list(normalization.std)}


def _architecture(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValueError(f"architecture must be a string, not {value!r}")


def _normalization(value: object) -> Normalization | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not {"mean", "std"} <= set(value):
        raise ValueError(f"normalisation must be null or have mean and std, not {value!r}")
    return Normalization(_numbers(value["mean"]), _numbers(value["std"]))


def _numbers(values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"expected a list of numbers, not {values!r}")
    try:
        return tuple(float(value) for value in values)
    except TypeError as error:
        raise ValueError(f"expected a list of numbers, not {values!r}") from error


def _classes(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"classes must be a list of names, not {value!r}")
    return tuple(value)


def _image_shape(value: object) -> tuple[int, int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3 or not all(type(side) is int and side > 0 for side in value):
        raise ValueError(f"image_shape must be [channels, height, width], not {value!r}")
    if max(value) > _MOST_PIXELS:
        raise ValueError(f"image_shape {value!r} has a side above {_MOST_PIXELS}, which no image here has")
    return (value[0], value[1], value[2])
