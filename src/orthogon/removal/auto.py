"""Several methods in a row, each as strong as clean images allow.

What a remover does to a backdoor cannot be seen on clean images; what it does to the accuracy can. So the methods are taken in
the order in which they have proved themselves, each begins at its strongest, and a step that costs too much accuracy is taken
back and tried again more gently.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from orthogon.classifier import Classifier
from orthogon.evaluate import accuracy
from orthogon.hardening import HardeningDiverged
from orthogon.images import LabelledImages
from orthogon.ranges import require
from orthogon.removal.aug_sam import AugSAM
from orthogon.removal.moth import Moth, MothAdditive, MothColour, standard_error
from orthogon.removal.remover import Remover, Work
from orthogon.removal.variations import bent
from orthogon.training import TrainingDiverged

_HARDENERS = {"additive": MothAdditive, "colour": MothColour, "patch": Moth}
_BENDS = 4
"""Ways in which each held-out image is bent."""


@dataclass(frozen=True)
class Auto(Remover):
    """AugSAM, then MOTH with additive triggers: flat minima on varied images, then hardening against what these leave.

    Neither is enough: on a ResNet-20 with 2,500 images AugSAM left 11 % of a clean-label patch and 95 % of DECK's adaptive
    trigger, of which hardening left 3 % and 9 %, and hardening by patches left 78 % of WaNet and 85 % of reflections. The other
    way round, fine-tuning brought a part of a clean-label backdoor back (2 % after hardening, 14 % after FT-SAM). Additive
    triggers take more than patches of what covers an image (patches left 26 % of the adaptive one), and less of some planted
    patches (25 % left on a small VGG, where patches left 6 %). Order and rates were settled on half of the zoo; what became of
    the other half, not all of it good, stands in the docs (Removal).
    """

    rates: tuple[float, ...] = (0.05, 0.02, 0.01, 0.005)
    """AugSAM's learning rates, the strongest first; the first that keeps the accuracy is taken."""
    epochs: int = 30
    """Passes of AugSAM over the clean images, at least."""
    least_updates: int = 240
    """Of AugSAM; of few images it makes more passes."""
    max_accuracy_loss: float = 0.08
    """Held-out accuracy that AugSAM may lose beyond the noise of the held-out images (one standard error), as a share. They are
    mostly images that the model was trained on: it knew them by heart, and lost 5 to 8 points where new images cost it 1."""
    max_bent_loss: float = 0.02
    """Accuracy that AugSAM may lose on the held-out images bent at random, as a share. No model knows those by heart: nine
    repaired ones lost there what they lost on new images (0 to 15 points), or up to 3 points less; one with a warp gained."""
    hardening: tuple[Literal["additive", "colour", "patch"], ...] = ("additive",)
    """By which triggers the model is hardened, one kind after the other."""
    hardening_steps: int = 240
    """Updates of each hardening; 0 leaves them out."""
    max_hardening_loss: float = 0.03
    """The same bound for each hardening, from where the step before it ended."""

    name: ClassVar[str] = "auto"
    source: ClassVar[str] = "orthogon: AugSAM (after FT-SAM, Zhu et al. 2023), then additive MOTH (after Tao et al. 2022)"

    def __post_init__(self) -> None:
        if not self.rates or sorted(self.rates, reverse=True) != list(self.rates) or min(self.rates) <= 0:
            raise ValueError(f"rates must be above 0 and fall, got {self.rates}")
        require(
            self,
            counts=("epochs",),
            not_negative=("least_updates", "hardening_steps"),
            below_one=("max_accuracy_loss", "max_bent_loss", "max_hardening_loss"),
        )

    def check(self, classifier: Classifier) -> None:
        """Refuse too few hardening_steps before any work."""
        for hardener in self._hardeners():
            hardener.check(classifier)

    def remove(self, work: Work) -> Classifier:
        """Flattened, then hardened; a step that diverges or is not within its bound at any strength leaves the model as it
        was."""
        hardeners = self._hardeners()
        flattening = 1 / (1 + len(hardeners))
        classifier = self._flattened(work, flattening)
        for number, hardener in enumerate(hardeners):
            begun, done = (flattening + (1 - flattening) * n / len(hardeners) for n in (number, number + 1))
            try:
                classifier = hardener.remove(_part(work, classifier, begun, done))
            except HardeningDiverged as error:
                work.notes.append(f"{hardener.name} was left out: {error}")
        return classifier

    def _hardeners(self) -> list[Moth]:
        numbers = {"steps": self.hardening_steps, "max_accuracy_loss": self.max_hardening_loss}
        return [_HARDENERS[name](**numbers) for name in self.hardening] if self.hardening_steps else []

    def _flattener(self, rate: float) -> AugSAM:
        return AugSAM(epochs=self.epochs, least_updates=self.least_updates, learning_rate=rate)

    def _flattened(self, work: Work, share: float) -> Classifier:
        """By AugSAM at the first rate that keeps the accuracy; the model as it is where none does."""
        hidden = bent_images(work)
        before = accuracy(work.classifier, work.held_out)
        floor = before.accuracy - self.max_accuracy_loss - standard_error(before)
        floor_bent = accuracy(work.classifier, hidden).accuracy - self.max_bent_loss
        parts = zip(self.rates, _divided(share, len(self.rates)), strict=True)
        for number, (rate, (begun, done)) in enumerate(parts, 1):
            try:
                flat = self._flattener(rate).remove(_part(work, work.classifier, begun, done))
            except TrainingDiverged as error:
                work.notes.append(f"AugSAM at a learning rate of {rate:g} was taken back: {error}")
                continue
            seen_bent = accuracy(flat, hidden).accuracy
            seen = work.look(flat, self.name, number, rate=rate, bent_accuracy=seen_bent)
            kept = seen >= floor - 1e-9 and seen_bent >= floor_bent - 1e-9
            told = f"held-out accuracy {seen:.1%}, at least {floor:.1%} was asked for"
            told = f"{told}; on bent images {seen_bent:.1%}, at least {floor_bent:.1%}"
            work.notes.append(f"AugSAM at a learning rate of {rate:g} was {'kept' if kept else 'taken back'}: {told}")
            if kept:
                return flat
        work.notes.append("AugSAM was left out, as no rate was kept: give more clean images, or lower rates")
        return work.classifier


def bent_images(work: Work) -> LabelledImages:
    """The held-out images, each bent in four ways: as hard as new images for a model that knows the straight ones by heart."""
    images = work.held_out
    straight = images.pixels.float() / 255
    pixels = [bent(straight, work.generator).mul(255).round().byte() for _ in range(_BENDS)]
    return replace(images, pixels=torch.cat(pixels), labels=images.labels.repeat(_BENDS))


def _part(work: Work, classifier: Classifier, begun: float, done: float) -> Work:
    """The same work on a copy of a classifier, which goes from one share of the whole to another."""
    own = copy.deepcopy(classifier).requires_grad_(True).eval()

    def told(share: float, note: str) -> None:
        work.on_progress(begun + share * (done - begun), note)

    return replace(work, classifier=own, on_progress=told)


def _divided(whole: float, tries: int) -> Iterator[tuple[float, float]]:
    """Shares from 0 to `whole`: the first try takes most of them, because the others are seldom needed."""
    return itertools.pairwise([whole * (1 - 0.2**n) for n in range(tries)] + [whole])
