"""From words to the images of a removal: those that the repair sees, and those that judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from orthogon.classifier import Classifier
from orthogon.cli.known_stamps import KnownStamp, aim_of, require_aim
from orthogon.cli.materials import judging_part, opened, victim_of
from orthogon.cli.remove import Remove
from orthogon.cli.subject import generator, open_subject, open_words
from orthogon.cli.words import ImageWords
from orthogon.data import DataError
from orthogon.data.classes import few
from orthogon.evaluate import attacked, stamped_already
from orthogon.images import LabelledImages

_PARTS = ("first", "range", "fraction", "per-class")


@dataclass(frozen=True, eq=False)
class Trap:
    """Images that are stamped, or are so already, and whom the stamp attacks."""

    images: LabelledImages
    stamp: KnownStamp
    target: int
    victim: int | None
    digest: str
    """Of the stamp, or of the pictures that carry it."""


@dataclass(frozen=True, eq=False)
class RemovalImages:
    """No image is in two of the first three, but for the held-out ones, which judge where nothing else can."""

    learned: LabelledImages
    held_out: LabelledImages
    judged: LabelledImages
    judged_are: str
    """ "test images" or "held-out images"."""
    trap: Trap | None

    def digests(self) -> dict[str, str]:
        """Of all of them by name."""
        parts = {"clean": self.learned, "held_out": self.held_out, "judged": self.judged}
        hashes = {name: images.digest() for name, images in parts.items()}
        return hashes if self.trap is None else hashes | {"stamped": self.trap.digest}


def open_removal(words: Remove) -> tuple[Classifier, RemovalImages]:
    """The model and all images; what is wrong with any of them is told here, before anything is done.

    Raises:
        ValueError, OSError: whatever is wrong with the words, the model, the stamp or the data.
    """
    stamp = _stamp(words)
    classifier, clean = opened(words.images, lambda asked: open_subject(words.model, asked, words.seed))
    draws = generator(words.seed)
    test, clean = _test(words, clean, draws)
    if test is not None:
        clean = _apart(words, clean, test)
    _require_classes(clean, 3, "give at least three clean images of every class: two to learn from, one to hold out")
    held_out, learned = clean.divide(words.held_out, draws)
    _require_classes(learned, 2, f"--held-out {words.held_out} takes the others away: name a smaller part of each class")
    judged, judged_are = (held_out, "held-out images") if test is None else (test, "test images")
    trap = _stamped(words, learned) if words.stamped is not None else _trap(words, stamp, judged)
    if trap is not None:
        attacked(trap.images, trap.target, trap.victim)
    return classifier, RemovalImages(learned, held_out, judged, judged_are, trap)


def _stamp(words: Remove) -> KnownStamp | None:
    if words.stamped is None:
        return require_aim(words.stamp, words.target, words.victim)
    if words.stamp is not None:
        raise ValueError(
            "--stamp stamps the images to judge by, --stamped has pictures that are stamped already: give one of them"
        )
    if words.target is None:
        raise ValueError(f"--stamped {words.stamped} does not tell which class its pictures lead to: give --target N")
    return None


def _test(words: Remove, clean: LabelledImages, draws: torch.Generator) -> tuple[LabelledImages | None, LabelledImages]:
    """Images to judge by, None where there are none but the clean ones, and the clean images that are left."""
    if words.test is None:
        return judging_part(words.images, clean, words.seed), clean
    if words.test.partition(":")[0] in _PARTS:
        return clean.divide(words.test, draws)
    own = {"image_shape": clean.image_shape, "classes": clean.classes}
    try:
        if any(mark in words.test for mark in "/\\:."):
            test = open_words(ImageWords(words.test), words.seed, **own)
        else:
            test = open_words(replace(words.images, split=words.test, subset=None), words.seed, **own)
    except DataError as error:
        raise DataError(f"--test {words.test}: {error}; other data are given as a path, such as ./test_images") from error
    return test, clean


def _apart(words: Remove, clean: LabelledImages, test: LabelledImages) -> LabelledImages:
    """The clean images that are not among those to judge by.

    Raises:
        ValueError: all of them are.
    """
    apart = clean.without(test)
    if len(apart) == 0:
        named = "the data's test part" if words.test is None else f"--test {words.test}"
        raise ValueError(f"{named} holds all {len(clean)} clean images: name others to judge by")
    if shared := len(clean) - len(apart):
        return replace(apart, source=f"{clean.source} [without {shared:,} that are among the images to judge by]")
    return apart


def _trap(words: Remove, stamp: KnownStamp | None, judged: LabelledImages) -> Trap | None:
    if stamp is None:
        return None
    return Trap(judged, stamp, *aim_of(stamp, words.target, words.victim, judged.classes), stamp.digest(judged.image_shape))


def _stamped(words: Remove, clean: LabelledImages) -> Trap:
    assert words.stamped is not None
    assert words.target is not None  # as `_stamp` has seen
    own = {"image_shape": clean.image_shape, "classes": clean.classes}
    images = open_words(ImageWords(words.stamped), words.seed, **own)
    victim = None if words.victim is None else victim_of(words.victim)
    return Trap(images, KnownStamp(stamped_already, "stamped already"), words.target, victim, images.digest())


def _require_classes(images: LabelledImages, least: int, advice: str) -> None:
    scarce = [f"{name} ({n})" for name, n in zip(images.classes, images.counts(), strict=True) if n < least]
    if scarce:
        told = f"too few images of {few(scarce)} in {images.source}"
        raise ValueError(f"{told}: a class that the repair is not shown would be forgotten; {advice}")
