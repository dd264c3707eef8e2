"""The numbers of a report: accuracy, accuracy under the PGD attack, and a backdoor's success. No method computes its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from orthogon.classifier import Classifier, require_match
from orthogon.images import LabelledImages
from orthogon.machine import device_of, exact_convolutions
from orthogon.memory import Parts

PGD_BOUNDS = {"cifar10": 8 / 255, "svhn": 0.03, "gtsrb": 0.03, "lisa": 0.1}
"""The papers' L-infinity bounds by data set, for images in [0, 1] (MOTH, appendix X-A; DECK, appendix III-C)."""


def parse_bound(text: str) -> float:
    """An L-infinity bound for images in [0, 1], from the name of a data set of the papers, "8/255" or "0.03".

    Raises:
        ValueError: it is none of these.
    """
    if text in PGD_BOUNDS:
        return PGD_BOUNDS[text]
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        known = ", ".join(PGD_BOUNDS)
        raise ValueError(f"bound {text!r} is none of {known}, nor a number such as 8/255 or 0.03") from None


@dataclass(frozen=True)
class PGDSettings:
    """Projected gradient descent within an L-infinity bound (Madry et al. 2018), from a random start.

    The papers give the bound alone; steps and step size are those of Madry et al.'s evaluation on CIFAR-10.
    """

    bound: float = PGD_BOUNDS["cifar10"]
    """Largest change of a pixel, for images in [0, 1]."""
    steps: int = 20
    """Gradient steps."""
    step_size: float | None = None
    """Change of a pixel per step; None takes 2.5 × bound / steps, which can cross the whole ball."""
    restarts: int = 1
    """Random starts; an image is robust where it survives all of them."""

    def __post_init__(self) -> None:
        if not (0 <= self.bound <= 1 and math.isfinite(self.bound)):
            raise ValueError(f"bound must be from 0 to 1 for images in [0, 1], got {self.bound}")
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be above 0, got {self.step_size}")


@dataclass(frozen=True)
class Evaluation:
    """How many images of each class were classified as what they are."""

    classes: tuple[str, ...]
    correct: tuple[int, ...]
    counts: tuple[int, ...]
    not_finite: int = 0
    """Images whose logits hold NaN or infinity; they count as wrong."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was measured: "clean" or the attack's settings, and the data's source."""

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(self.counts)

    @property
    def accuracy(self) -> float:
        """Share of all images, 0 to 1."""
        return sum(self.correct) / self.total

    @property
    def per_class(self) -> tuple[float | None, ...]:
        """Share of each class's images; None for a class without images."""
        return tuple(c / n if n else None for c, n in zip(self.correct, self.counts, strict=True))

    @property
    def balanced(self) -> float:
        """Mean of the classes' accuracies, over the classes that have images."""
        present = [share for share in self.per_class if share is not None]
        return sum(present) / len(present)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson)."""
        return wilson(sum(self.correct), self.total)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        return {
            "accuracy": self.accuracy,
            "interval_95": list(self.interval),
            "correct": sum(self.correct),
            "total": self.total,
            "not_finite": self.not_finite,
            "per_class": [
                {"class": name, "accuracy": share, "correct": c, "total": n}
                for name, share, c, n in zip(self.classes, self.per_class, self.correct, self.counts, strict=True)
            ],
            **self.facts,
        }


Stamp: TypeAlias = Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]
"""Puts a trigger on images in [0, 1], each for itself, on the device that they are on."""


@dataclass(frozen=True)
class AttackEvaluation:
    """What a classifier makes of stamped images: those whose true class is not the target, or is the victim where there is one.

    The attack success rate is the share of them that is taken for the target, whatever they were taken for without the stamp;
    the robust accuracy is the share that still gets its true class. An image of the target class counts in neither.
    """

    classes: tuple[str, ...]
    target: int
    victim: int | None
    """The one class that is attacked (label-specific); None: all but the target (universal)."""
    hits: tuple[int, ...]
    """Stamped images of each true class that are classified as the target."""
    correct: tuple[int, ...]
    """Stamped images of each true class that are classified as what they are."""
    counts: tuple[int, ...]
    """Stamped images of each true class."""
    not_finite: int = 0
    """Images whose logits hold NaN or infinity; they count as neither."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was measured: the stamp in words, and the data's source."""

    @property
    def total(self) -> int:
        """Number of stamped images."""
        return sum(self.counts)

    @property
    def success_rate(self) -> float:
        """The attack success rate, 0 to 1."""
        return sum(self.hits) / self.total

    @property
    def success_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the attack success rate (Wilson)."""
        return wilson(sum(self.hits), self.total)

    @property
    def robust_accuracy(self) -> float:
        """Share of the stamped images that still get their true class, 0 to 1."""
        return sum(self.correct) / self.total

    @property
    def robust_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the robust accuracy (Wilson)."""
        return wilson(sum(self.correct), self.total)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a result file."""
        rows = zip(self.classes, self.hits, self.correct, self.counts, strict=True)
        return {
            "attack_success_rate": self.success_rate,
            "attack_success_interval_95": list(self.success_interval),
            "robust_accuracy": self.robust_accuracy,
            "robust_interval_95": list(self.robust_interval),
            "target": self.classes[self.target],
            "victim": None if self.victim is None else self.classes[self.victim],
            "hits": sum(self.hits),
            "correct": sum(self.correct),
            "total": self.total,
            "not_finite": self.not_finite,
            "per_class": [
                {"class": name, "attack_success_rate": hits / n, "hits": hits, "correct": correct, "total": n}
                for name, hits, correct, n in rows
                if n
            ],
            **self.facts,
        }


def wilson(correct: int | float, total: int, deviations: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share; 1.959964 standard deviations make it the 95 % one (Wilson 1927).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"a share needs 0 <= correct <= total and total > 0, got {correct} of {total}")
    share, z = correct / total, deviations**2 / total
    centre = (share + z / 2) / (1 + z)
    half = math.sqrt(z * share * (1 - share) + z * z / 4) / (1 + z)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(
    classifier: Classifier,
    images: LabelledImages,
    *,
    batch: int = 500,
    on_progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Accuracy in float32, on the classifier's device.

    Args:
        classifier: evaluated in evaluation mode, and left in the mode that it was in.
        images: of the classifier's shape, with labels in the order of its classes.
        batch: images at once; halved as often as memory asks for it.
        on_progress: called after each batch with the share done (0 to 1).

    Raises:
        ValueError: images of another shape or number of classes, or no images.
    """

    def judge(start: int, stop: int) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
        pixels, labels = _part(images, start, stop, device_of(classifier))
        return _right(classifier(pixels), labels)

    require_match(classifier, images)
    with evaluating(classifier), exact_convolutions(), torch.inference_mode():
        right, finite = _in_batches(judge, len(images), batch, on_progress)
    return _evaluation(images, right, finite, {"kind": "clean", "data": images.source})


def robust_accuracy(
    classifier: Classifier,
    images: LabelledImages,
    settings: PGDSettings,
    generator: torch.Generator,
    *,
    batch: int = 250,
    on_progress: Callable[[float], None] | None = None,
) -> Evaluation:
    """Accuracy under PGD: an image counts where neither it nor any point that the attack visits is misclassified.

    An image that is fooled leaves the attack, so a weak classifier is quick to judge.

    Args:
        classifier: attacked in float32 and in evaluation mode, on the device that it is on; left as it was.
        images: of the classifier's shape, with labels in the order of its classes.
        settings: bound, steps, restarts.
        generator: draws the starts.
        batch: images at once; halved as often as memory asks for it.
        on_progress: called after each batch with the share done (0 to 1).

    Raises:
        ValueError: images of another shape or number of classes, or no images.
    """
    require_match(classifier, images)
    device = device_of(classifier)

    def judge(start: int, stop: int) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"]]:
        pixels, labels = _part(images, start, stop, device)
        with torch.no_grad():
            standing, finite = _right(classifier(pixels), labels)
        for _ in range(settings.restarts):
            alive = standing.nonzero().flatten()
            standing[alive] = _survives(classifier, pixels[alive], labels[alive], settings, generator)
        return standing, finite

    with evaluating(classifier), exact_convolutions():
        right, finite = _in_batches(judge, len(images), batch, on_progress)
    facts = {"kind": "pgd", "bound": settings.bound, "steps": settings.steps, "restarts": settings.restarts}
    return _evaluation(images, right, finite, {**facts, "step_size": _step_size(settings), "data": images.source})


def _survives(
    classifier: Classifier,
    clean: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    settings: PGDSettings,
    generator: torch.Generator,
) -> Bool[Tensor, " n"]:
    """Which images are still classified as `labels` at every point that one attack visits."""
    noise = torch.rand(clean.shape, generator=generator, device=generator.device).to(clean.device)
    low, high = (clean - settings.bound).clamp(min=0), (clean + settings.bound).clamp(max=1)
    point = (clean + settings.bound * (2 * noise - 1)).clamp(low, high)
    alive = torch.arange(len(clean), device=clean.device)
    for step in range(settings.steps + 1):
        if len(alive) == 0:
            break
        point.requires_grad_(step < settings.steps)  # the last point is only looked at
        logits = classifier(point)
        keep = _right(logits.detach(), labels[alive])[0]
        if step < settings.steps:
            loss = F.cross_entropy(logits, labels[alive], reduction="sum")
            # a network that does not look at its images has no gradient
            gradient = (
                torch.autograd.grad(loss, point, materialize_grads=True)[0] if loss.requires_grad else torch.zeros_like(point)
            )
            point = point.detach() + _step_size(settings) * gradient.sign()
        alive = alive[keep]
        point = point.detach()[keep].clamp(low[alive], high[alive])
    return torch.zeros(len(clean), dtype=torch.bool, device=clean.device).index_fill_(0, alive, True)


def _step_size(settings: PGDSettings) -> float:
    return 2.5 * settings.bound / settings.steps if settings.step_size is None else settings.step_size


def attack_success(
    classifier: Classifier,
    images: LabelledImages,
    stamp: Stamp,
    target: int,
    victim: int | None = None,
    *,
    described: str = "",
    batch: int = 500,
    on_progress: Callable[[float], None] | None = None,
) -> AttackEvaluation:
    """How often stamped images are taken for the target class, and how often still for what they are.

    The one definition, for every attack and defence: only images whose true class is not the target are stamped, and where
    there is a victim class only its images. What is classified, in float32, is what an attacker can hand in: the stamped
    image clipped to [0, 1] and rounded to the 256 levels of a picture file.

    Args:
        classifier: evaluated in evaluation mode on the device that it is on, and left in the mode that it was in.
        images: of the classifier's shape, with labels in the order of its classes; best ones of the test set.
        stamp: puts the trigger on a batch, on the classifier's device.
        target: class that stamped images are to be taken for.
        victim: class that the trigger works on; None: every class but the target.
        described: the stamp in words, for the result file.
        batch: images at once; halved as often as memory asks for it.
        on_progress: called after each batch with the share done (0 to 1).

    Raises:
        ValueError: images of another shape or number of classes, a target or victim that is not a class, victim = target,
            no image to stamp, or a stamp that changes the shape or gives NaN.
    """
    require_match(classifier, images)
    stamped = images.select(attacked(images, target, victim))
    device = device_of(classifier)

    def judge(start: int, stop: int) -> tuple[Int64[Tensor, " b"], Bool[Tensor, " b"]]:
        pixels, _ = _part(stamped, start, stop, device)
        logits = classifier(in_bytes(_same_shape(stamp(pixels), pixels)).float().div_(255))
        return logits.argmax(1), logits.isfinite().all(1)

    with evaluating(classifier), exact_convolutions(), torch.no_grad():
        predicted, finite = _in_batches(judge, len(stamped), batch, on_progress)
    labels, classes = stamped.labels.cpu(), len(images.classes)
    hits = torch.bincount(labels[finite & (predicted == target)], minlength=classes).tolist()
    correct = torch.bincount(labels[finite & (predicted == labels)], minlength=classes).tolist()
    facts = {"kind": "stamped", "stamp": described, "data": images.source}
    not_finite = int((~finite).sum())
    return AttackEvaluation(
        images.classes, target, victim, tuple(hits), tuple(correct), tuple(stamped.counts()), not_finite, facts
    )


def attacked(images: LabelledImages, target: int, victim: int | None = None) -> Int64[Tensor, " k"]:
    """Indices of the images that an attack counts on: those of the victim class; without one, of every class but the target.

    Raises:
        ValueError: a target or victim that is not a class, victim = target, or no such image.
    """
    classes = len(images.classes)
    for role, c in (("target", target), ("victim", victim)):
        if c is not None and not 0 <= c < classes:
            raise ValueError(f"the {role} {c} is not one of the {classes} classes (0 and up) of {images.source}")
    if victim == target:
        raise ValueError(f"victim and target are both class {target}: an attack leads from one class to another")
    chosen = ((images.labels != target) if victim is None else (images.labels == victim)).nonzero().flatten()
    if len(chosen) == 0:
        wanted = "any class but the target" if victim is None else f"the victim class {images.classes[victim]!r}"
        raise ValueError(f"no image of {wanted} in {images.source}: there is nothing to stamp")
    return chosen


def stamped_already(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """The stamp of pictures that carry their trigger: with it `attack_success` judges a folder of them, by the same definition.

    The labels are the true classes, so that pictures of the target class count in nothing.
    """
    return images


def in_bytes(images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
    """Images clipped to [0, 1] and rounded to the nearest of 256 levels, as picture files hold them.

    Raises:
        ValueError: a pixel is NaN.
    """
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().flatten(1).any(1).sum())} of {len(images)} images hold NaN: they are no pictures")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _same_shape(stamped: Tensor, clean: Tensor) -> Tensor:
    if stamped.shape != clean.shape:
        raise ValueError(f"the stamp made images {tuple(stamped.shape)} of images {tuple(clean.shape)}: it must keep the shape")
    return stamped


def near_chance(evaluation: Evaluation) -> str | None:
    """Why a clean accuracy is too close to guessing for distances to mean anything; None where it is not.

    Too close is: the mean of the classes' accuracies is at most chance + min(chance, (1 - chance) / 4), where chance
    is 1 / classes (0.2 for 10 classes, 0.625 for 2), or its 95 % confidence interval holds chance. The mean over
    the classes is taken because a network that always answers the largest class is at chance by it.
    """
    chance = 1 / len(evaluation.classes)
    limit = chance + min(chance, (1 - chance) / 4)
    low, _ = wilson(evaluation.balanced * evaluation.total, evaluation.total)
    if evaluation.not_finite:
        return (
            f"the logits of {evaluation.not_finite} of {evaluation.total} images are not finite: the weights probably "
            "hold NaN or infinity"
        )
    if evaluation.balanced > limit and low > chance:
        return None
    return (
        f"the clean accuracy is {evaluation.balanced:.1%} (mean over the classes, {evaluation.total} images), where "
        f"guessing gives {chance:.1%} and at most {limit:.1%} counts as near it; the likely causes are another "
        "normalization or image size than the model was trained with, or class names in another order than its outputs: "
        "a card beside the weights can tell all three"
    )


def _part(
    images: LabelledImages, start: int, stop: int, device: torch.device
) -> tuple[Float[Tensor, "b c h w"], Int64[Tensor, " b"]]:
    part = images.select(torch.arange(start, stop))
    return part.floats(device), part.labels.to(device)


def _right(logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which images are classified as what they are, and which have finite logits; without the second not the first."""
    finite = logits.isfinite().all(1)
    return (logits.argmax(1) == labels) & finite, finite


@contextmanager
def evaluating(classifier: Classifier) -> Iterator[None]:
    """The classifier in evaluation mode, and afterwards in the mode that it was in."""
    training = classifier.training
    classifier.eval()
    try:
        yield
    finally:
        classifier.train(training)


def _in_batches(
    judge: Callable[[int, int], tuple[Tensor, Tensor]],
    total: int,
    batch: int,
    on_progress: Callable[[float], None] | None,
) -> tuple[Tensor, Bool[Tensor, " n"]]:
    """What `judge` says of all images, on the CPU at the end; a batch that does not fit in memory is halved."""

    def told(start: int, stop: int) -> tuple[Tensor, Tensor]:
        said, finite = judge(start, stop)
        if on_progress is not None:
            on_progress(stop / total)
        return said.cpu(), finite.cpu()

    parts = Parts(batch)(told, total)
    return torch.cat([said for said, _ in parts]), torch.cat([finite for _, finite in parts])


def _evaluation(images: LabelledImages, right: Tensor, finite: Tensor, facts: dict[str, Any]) -> Evaluation:
    classes = len(images.classes)
    correct = torch.bincount(images.labels.cpu()[right], minlength=classes)
    counts = images.counts()
    return Evaluation(images.classes, tuple(correct.tolist()), tuple(counts), int((~finite).sum()), facts)
