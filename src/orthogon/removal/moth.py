"""Hardening as removal: a planted trigger brings two classes close, and whatever is close, hardening pushes apart.

No trigger has to be told from a natural one, so nothing is flagged and nothing can be overlooked by a threshold. A universal
backdoor is only nine close pairs with one target: each is found as a pair, and the warm-up's universal triggers find them at
once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from orthogon.classifier import Classifier
from orthogon.evaluate import Evaluation, accuracy, wilson
from orthogon.hardening import METHODS, Hardening, HardeningProgress, HardeningSettings, harden
from orthogon.removal.remover import Look, Remover, Work


@dataclass(frozen=True)
class Moth(Remover):
    """MOTH on the few clean images, patch by patch; of its models, the one with the largest distances within the bound.

    *The bound.* Held-out images are mostly some of those that the model was trained on. It knows them by heart, and their
    accuracy falls faster than that of new ones. On a small VGG with a planted patch (94 % of its training images right, 84 %
    of new ones) it fell by 4 points within 150 updates and by 5 within 360; a bound of one point kept the 60th, with an
    attack success rate of 95 %. And a few hundred images tell accuracy to a point or two: with 250, a bound of one point is
    two or three images, and a model that has lost nothing would break it every fourth time if a twentieth of its answers are
    right where they were wrong, or the reverse. What may be lost is therefore `max_accuracy_loss` plus one standard error of
    the held-out accuracy (down to the lower end of Wilson's interval). With images that are new to the model, give 0.01.

    *The original as teacher.* It teaches the poisoned model's answers to clean images only, and a backdoor is what a model
    says of others: there is no trigger on the teacher's images, and the stamped ones have their true labels alone. In
    hardening it is what keeps the accuracy. What it does pass on is a bias of clean answers (clean-label attacks) and what
    was made to survive distillation (Ge et al. 2021): then take `distillation=0`.

    BatchNorm normalises by batches of which half carry triggers, and goes on learning its statistics from them. Of the
    augmentation, shift and flip are taken; hardening has no cutout.
    """

    steps: int = 240
    """Updates of the weights; 360 of a small VGG on CIFAR-10 took 280 seconds of one core."""
    learning_rate: float = 0.004
    """The highest, falling to zero; as `orthogon harden` has it."""
    distillation: float = 3.0
    """Weight of the original's answers to the clean images beside their labels; as `orthogon harden` has it. 0: labels alone."""
    max_accuracy_loss: float = 0.05
    """Held-out accuracy that may be lost beyond the noise, as a share, where the model was trained on the held-out images. The
    paper's models lose less than 0.01 (abstract)."""
    check_every: int = 20
    """Updates between two looks, each of which may replace the kept model."""

    name: ClassVar[str] = "moth"
    source: ClassVar[str] = "Tao et al. 2022, Model Orthogonalization (MOTH), section VI-B"

    def __post_init__(self) -> None:
        self.settings(self.max_accuracy_loss, 0.0, False)

    def settings(self, loss: float, shift: float, flip: bool) -> HardeningSettings:
        """What the hardening is told.

        Raises:
            ValueError: a number of this removal is out of range.
        """
        numbers = {"steps": self.steps, "learning_rate": self.learning_rate, "distillation": self.distillation}
        told = {"check_every": self.check_every, "max_accuracy_loss": loss, "shift": shift, "flip": flip}
        return replace(METHODS[self.name], **numbers, **told)

    def check(self, classifier: Classifier) -> None:
        """Refuse steps that end in the warm-up, which takes a few for every class.

        Raises:
            ValueError: they do.
        """
        method = METHODS[self.name]
        needed = -(-len(classifier.classes) // method.arms_per_pick) * method.updates_per_pick
        if self.steps <= needed:
            raise ValueError(
                f"{self.steps} steps end within the warm-up, which takes {needed} of them for {len(classifier.classes)} classes: "
                "give more"
            )

    def remove(self, work: Work) -> Classifier:
        """Hardened, within the bound; as it was where no step was within it.

        Raises:
            ValueError: the steps end in the warm-up, which looks at every class.
            HardeningDiverged: the loss kept turning NaN.
        """
        loss = self.max_accuracy_loss + standard_error(accuracy(work.classifier, work.held_out))
        settings = self.settings(min(1.0, loss), work.augmentation.shift, work.augmentation.flip)
        furthest = 0.0

        def told(progress: HardeningProgress) -> None:
            nonlocal furthest
            furthest = max(furthest, progress.done)  # a restart of the hardening goes back
            work.on_progress(furthest, f"{progress.phase}, update {progress.step}: triggers of {progress.distance:.1f}")

        seed = int(torch.randint(2**40, (), generator=work.generator))
        result = harden(work.classifier, work.images, work.held_out, settings, seed=seed, on_progress=told)
        _tell(work, result)
        return result.classifier


@dataclass(frozen=True)
class MothFilter(Moth):
    """MOTH with colour filters instead of patches: each image is given the trigger's mean and deviation per channel."""

    name: ClassVar[str] = "moth-filter"
    source: ClassVar[str] = "Tao et al. 2022, Model Orthogonalization (MOTH), appendix X-G"


@dataclass(frozen=True)
class MothColour(Moth):
    """MOTH with maps of colours instead of patches: for photographic filters, which do nearly what such a map does."""

    name: ClassVar[str] = "moth-colour"
    source: ClassVar[str] = "orthogon: colour maps in the hardening of Tao et al. 2022 (MOTH)"


@dataclass(frozen=True)
class MothAdditive(Moth):
    """MOTH with additive triggers instead of patches: a faint picture is added to the whole of each image.

    For what covers an image: a vignette, a blended picture, a trigger that is optimised to be faint.
    """

    name: ClassVar[str] = "moth-additive"
    source: ClassVar[str] = "orthogon: additive triggers in the hardening of Tao et al. 2022 (MOTH)"


def standard_error(seen: Evaluation) -> float:
    """How far the lower end of Wilson's interval of one deviation lies below the accuracy, as a share; above 0 even at 100 %."""
    return seen.accuracy - wilson(sum(seen.correct), seen.total, 1.0)[0]


def _tell(work: Work, result: Hardening) -> None:
    """The looks of the hardening and what a reader has to know."""
    for check in result.history.checks:
        facts = {"distance": check.distance, "loss": check.loss, "kept": check.kept}
        work.history.append(Look("hardening", check.step, check.accuracy, facts))
    bound = f"the bound is {result.floor:.1%} on {len(work.held_out)} held-out images, {result.accuracy_before:.1%} before"
    if result.best_step:
        work.notes.append(f"the model of update {result.best_step} of {result.step} was kept; {bound}")
    else:
        work.notes.append(
            f"no hardened model was within the bound, so the model is as it was and may still have its backdoor ({bound}): "
            "give more clean images or a lower learning_rate, or allow a larger max_accuracy_loss"
        )
    work.notes += [restart.reason for restart in result.history.restarts]
    work.notes += result.notes
