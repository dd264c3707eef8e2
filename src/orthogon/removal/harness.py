"""Remove a backdoor: copy the model, divide the clean images, let the method work, and judge."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from orthogon.classifier import Classifier, require_match
from orthogon.evaluate import Evaluation, accuracy, near_chance
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.naming import settings_of
from orthogon.randomness import layer_draws
from orthogon.recipe import TrainingSettings
from orthogon.removal.remover import Look, Remover, Work

HELD_OUT = 0.1
"""Share of the clean images of each class that is not learned from: thresholds are chosen by it."""


@dataclass(frozen=True, eq=False)
class Removal:
    """What came of a removal. How well the backdoor went is for `evaluate` to say, on images that nothing here has seen."""

    classifier: Classifier
    """Repaired, in evaluation mode."""
    remover: Remover
    before: Evaluation
    """Of the model as it came, on the held-out clean images."""
    after: Evaluation
    """Of the repaired model, on the same."""
    history: tuple[Look, ...]
    notes: tuple[str, ...]
    """What a reader has to know."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        return {
            "method": self.remover.name,
            "source": self.remover.source,
            "settings": settings_of(self.remover),
            **self.remover.described(),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "history": [asdict(look) for look in self.history],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def remove(
    classifier: Classifier,
    images: LabelledImages,
    remover: Remover,
    generator: torch.Generator,
    *,
    held_out: LabelledImages | None = None,
    augmentation: TrainingSettings | None = None,
    layers: tuple[str, ...] = (),
    force: bool = False,
    on_progress: Callable[[float, str], None] | None = None,
) -> Removal:
    """Remove whatever backdoor a model may have, with clean images alone.

    Args:
        classifier: is not changed; its device is where everything happens.
        images: clean, with their true labels.
        remover: the method.
        generator: every draw comes from it; on the CPU.
        held_out: clean images that are not learned from; None takes a tenth of each class of `images` away for it.
        augmentation: how a batch is varied (shift, flip, cutout); None: shifts alone, which suit any images.
        layers: modules that a method which works on some shall take instead of its own choice.
        force: go on although the model's answers and the labels disagree.
        on_progress: told now and then the share done (0 to 1) and a note.

    Raises:
        ValueError: images of another shape or other classes than the classifier's, a class without two images, labels that
            the model does not agree with (and no `force`), a model that lacks what the method needs, or layers for a method
            that takes none.
    """
    require_match(classifier, images)
    _require_classes(images)
    remover.check(classifier)
    if layers and not remover.takes_layers:
        raise ValueError(f"{remover.name} works on the whole network: leave the layers {', '.join(layers)} out")
    if held_out is None:
        held_out, images = images.divide(f"fraction:{HELD_OUT}", generator)
    before = accuracy(classifier, held_out)
    if (doubt := near_chance(before)) is not None and not force:
        raise ValueError(f"the model and the labels of the clean images disagree: {doubt}")
    own = copy.deepcopy(classifier).requires_grad_(True).eval()
    work = Work(own, images, held_out, generator, augmentation or TrainingSettings(), layers)
    work.notes += _disagreements(before)
    if on_progress is not None:
        work.on_progress = on_progress
    started = time.monotonic()
    with layer_draws(device_of(own), generator.initial_seed()):
        repaired = remover.remove(work).requires_grad_(True).eval()
    seconds = time.monotonic() - started
    repaired.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    after = accuracy(repaired, held_out)
    return Removal(repaired, remover, before, after, tuple(work.history), tuple(work.notes), seconds)


def _require_classes(images: LabelledImages) -> None:
    counts = images.counts()
    if len(images) < len(counts):
        raise ValueError(f"{images.source} has {len(images)} images of {len(counts)} classes: give at least two of every class")
    if scarce := [f"{name!r} ({n})" for name, n in zip(images.classes, counts, strict=True) if n < 2]:
        raise ValueError(
            f"{images.source} has fewer than two images of {', '.join(scarce)}: a class that is not shown would be forgotten"
        )


def _disagreements(before: Evaluation) -> list[str]:
    """Classes whose held-out images the model mostly takes for others: their labels may be wrong."""
    rows = zip(before.classes, before.per_class, before.counts, strict=True)
    odd = [f"{name!r} ({share:.0%} of {n})" for name, share, n in rows if share is not None and share < 0.5]
    if not odd:
        return []
    return [f"take care: the model agrees with less than half of the labels of {', '.join(odd)}; are these labels right?"]
