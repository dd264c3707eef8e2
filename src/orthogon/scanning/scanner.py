"""What a scanner has to offer; verdicts, probabilities and judging its triggers are not its own business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.scanning.evidence import Evidence

OnProgress: TypeAlias = Callable[[float, str], None]
"""Told now and then the share done (0 to 1) and a note."""


_FEWEST_CLASSES = 4
"""Classes from which it says something that one of them stands out."""
_FEWEST_IMAGES = 5
"""Images of a class below which a trigger that turns them says little."""


class Scanner(ABC):
    """A frozen dataclass of settings, its source's own by default, and what it looks for in a model.

    An author writes the facts and `scan`. The harness checks the images, repeats the scan, judges its triggers in float32 on all
    images and turns the score into a verdict.
    """

    name: ClassVar[str]
    """As the command line and the results name it."""
    source: ClassVar[str]
    """Where the method and its defaults come from: authors, year, section."""
    needs_images: ClassVar[bool] = True
    """Whether it has to see clean images."""

    @property
    @abstractmethod
    def threshold(self) -> float:
        """Score above which the source calls a model backdoored."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """That rule in words, for the reasons of a verdict: what the score is, and which one counts."""

    def members(self) -> tuple[Scanner, ...]:
        """Other scanners that it is made of, whose calibrations its score may depend on."""
        return ()

    @abstractmethod
    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """Look for a backdoor.

        Args:
            classifier: in evaluation mode on its device; not changed.
            images: clean, of the classifier's shape and classes; None only where the scanner needs none.
            generator: every draw comes from it; on the CPU.
            on_progress: told how far the scan is.
        """


def drawn_seed(generator: torch.Generator) -> int:
    """A seed for what takes a number and no generator."""
    return int(torch.randint(2**40, (), generator=generator))


def part_of(on_progress: OnProgress, begun: float, width: float, note: str) -> Callable[[float], None]:
    """A stretch of a scan's progress: from `begun`, so wide, under one note."""
    return lambda share: on_progress(begun + width * share, note)


def at_hand(images: LabelledImages, wanted: int) -> int:
    """So many images to search a universal trigger on, or as many as there are of other classes, whichever is the target."""
    return max(1, min(wanted, len(images) - max(images.counts())))


def too_few(images: LabelledImages) -> tuple[str, ...]:
    """Why classes cannot be compared by these images: too few classes, or too few images of one; nothing where they can."""
    if len(images.classes) < _FEWEST_CLASSES:
        return (f"{len(images.classes)} classes are too few for one to stand out ({_FEWEST_CLASSES})",)
    scarce = [f"{name!r} {n}" for name, n in zip(images.classes, images.counts(), strict=True) if n < _FEWEST_IMAGES]
    return (f"fewer than {_FEWEST_IMAGES} images of a class: {', '.join(scarce[:8])}",) if scarce else ()
