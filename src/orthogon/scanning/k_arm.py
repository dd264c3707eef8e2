"""K-Arm: a bandit that spends the steps of inversion on the class or pair whose trigger shrinks the fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.evaluate import evaluating
from orthogon.frozen import Speed
from orthogon.images import LabelledImages, shuffled
from orthogon.inversion import Request, invert
from orthogon.machine import device_of
from orthogon.matrix import plain
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import NEURAL_CLEANSE, InversionSettings, Stage
from orthogon.ranges import require
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.scanner import OnProgress, Scanner, drawn_seed, part_of
from orthogon.triggers import FAMILIES

_REFERENCE = 224 * 224
"""Pixels of the images that the release's sizes are of."""
_FIRST = 2500.0
"""Mask from whose size the release counts how fast a trigger shrinks, in pixels of 224×224."""
_SEARCHED, _CHECKED = 0.8, 1.0
_SHOWN = 3


@dataclass(frozen=True)
class KArm(Scanner):
    """Pre-screening names candidate arms, a bandit shrinks their patches, and a pair's patch is compared with the way back.

    A class that is among the likeliest for nearly all images is a universal arm; without one, each class that is so for nearly
    all images of another class is a label-specific arm. While arms are warmed up, each is searched until it has improved twice;
    then the arm with the largest sum of speed and beta / mask size is, or with the probability epsilon any other. A universal
    patch below its bound is a backdoor; a label-specific one has to be below its own and ten times smaller than the patch back.

    Departs from the release: the search is orthogon's one loop, which goes on from the smallest confirmed patch, `pull` epochs
    at a time, with a fresh state of Adam; patterns have a colour per pixel; 50 images are searched on; and the bounds, which the
    release has in pixels of 224×224 images, are shares of an image's pixels.
    """

    epsilon: float = 0.3
    """Probability of any arm in the best one's place, 0 to 1 (the release: 0.3)."""
    steps: int = 1000
    """Epochs over all arms, an epoch being a pass over an arm's images (the release: 1000)."""
    rounds: int = 60
    """Improvements after which an arm is done (the release: 60)."""
    warm_up: int = 2
    """Improvements of each arm before the bandit chooses (the release: 2)."""
    pull: int = 10
    """Epochs of an arm each time that it is chosen."""
    given_up: int = 200
    """Epochs after which an arm without a patch is done, and one that has improved once counts as warm (the release: 200)."""
    beta: float = 1e4
    """Of the inverse mask size, in pixels of 224×224, against the speed (the release: 1e4)."""
    share: float = 0.25
    """Of the classes, how many count as the likeliest of an image; two where there are 8 or fewer (the release: 0.25)."""
    universal_share: float = 0.95
    """Of all images, how many a universal arm is among the likeliest of (the release: 0.95)."""
    pair_share: float = 0.9
    """The same of one class's images for a label-specific arm (the release: 0.9)."""
    samples: int = 50
    """Images per arm."""
    universal_bound: float = 1720 / _REFERENCE
    """Universal patch that is a backdoor, as a share of the image's pixels (the release: 1720 of 224×224)."""
    pair_bound: float = 1000 / _REFERENCE
    """Label-specific patch that is one, where it is also small beside the way back (the release: 1000 of 224×224)."""
    symmetric: bool = True
    """Compare a label-specific patch with the one back (the release's symmetric check)."""
    ratio: float = 10.0
    """By how much the patch back has to be larger (the release: 10)."""

    name: ClassVar[str] = "k-arm"
    source: ClassVar[str] = (
        "Shen et al. 2021, Backdoor Scanning for Deep Neural Networks through K-Arm Optimization, and its release"
    )

    def __post_init__(self) -> None:
        require(
            self,
            counts=("steps", "rounds", "given_up", "samples"),
            positive=("pull", "universal_bound", "pair_bound", "ratio"),
            not_negative=("warm_up", "beta"),
            shares=("epsilon", "share", "universal_share", "pair_share"),
        )

    @property
    def threshold(self) -> float:
        """0: the size is the bound."""
        return 0.0

    @property
    def rule(self) -> str:
        """The release's."""
        back = f" and {self.ratio:g} times smaller than the patch back" if self.symmetric else ""
        return (
            f"the logarithm of how much smaller the patch is than its bound ({self.universal_bound:.1%} of the pixels for a "
            f"universal one; {self.pair_bound:.1%}{back} for a pair), a backdoor above 0"
        )

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """The arm with the smallest patch, and how much smaller it is than its bound."""
        assert images is not None  # the harness sees to it
        arms, screened = self._candidates(classifier, images)
        facts: dict[str, Any] = {"arms": [[arm.victim, arm.target] for arm in arms], "screened_by": screened}
        if not arms:
            score = math.log(self.pair_bound)  # as if the whole image were the patch
            return Evidence(score, features={"score": score}, facts=facts)
        told = part_of(on_progress, 0.0, _SEARCHED, f"patches of {len(arms)} arms")
        played = _Bandit(self, classifier, images, arms, generator).played(self.steps, told)
        backs: dict[Pair, _Played] = {}
        if self.symmetric:
            told = part_of(on_progress, _SEARCHED, _CHECKED - _SEARCHED, "the patch back")
            backs = self._backs(classifier, images, played, generator, told)
        tried = [arm for arm in played if arm.inversion is not None]
        suspects = sorted((self._suspect(arm, backs.get(arm.pair)) for arm in tried), key=lambda s: -s.score)
        facts |= {"played": [arm.told() for arm in played], "back": [back.told() for back in backs.values()]}
        score = suspects[0].score
        return Evidence(score, tuple(suspects[:_SHOWN]), {"score": score}, facts, _doubts([*played, *backs.values()]))

    def _candidates(self, classifier: Classifier, images: LabelledImages) -> tuple[list[Pair], str]:
        """Pre-screening: universal arms, or else label-specific ones."""
        logits, classes = _logits(classifier, images), len(classifier.classes)
        count = 2 if classes <= 8 else round(classes * self.share)
        likeliest = torch.zeros_like(logits).scatter_(1, logits.topk(min(count, classes), dim=1).indices, 1.0)
        taken_for, universal = logits.argmax(1), likeliest.mean(0)
        if float(universal.max()) > self.universal_share:
            return [Pair(None, int(universal.argmax()))], "universal"
        pairs, counts = list[Pair](), images.counts()
        for victim in range(classes):
            mine = likeliest[taken_for == victim]
            if len(mine) and counts[victim]:
                often = (mine.mean(0) >= self.pair_share).nonzero().flatten().tolist()
                pairs += [Pair(victim, target) for target in often if target != victim]
        return pairs, "label-specific"

    def _backs(
        self,
        classifier: Classifier,
        images: LabelledImages,
        played: Sequence[_Played],
        generator: torch.Generator,
        told: Callable[[float], None],
    ) -> dict[Pair, _Played]:
        """The way back of the label-specific arm with the smallest patch, with as many epochs as it had."""
        found = [arm for arm in played if arm.pair.victim is not None and math.isfinite(arm.size)]
        if not found:
            return {}
        best = min(found, key=lambda arm: arm.size)
        back = Pair(best.pair.target, best.pair.victim or 0)
        if not images.counts()[best.pair.target]:
            return {}
        return {best.pair: _Bandit(self, classifier, images, [back], generator).played(best.epochs, told)[0]}

    def _suspect(self, arm: _Played, back: _Played | None) -> Suspect:
        """An arm with its score: above 0 by the release's rule, and smooth around it."""
        size = min(arm.size / arm.whole, 1.0)
        if arm.pair.victim is None:
            return Suspect(arm.pair, math.log(self.universal_bound / size), "patch", arm.inversion)
        score = math.log(self.pair_bound / size)
        if self.symmetric and back is not None:
            score = min(score, math.log(min(back.size / back.whole, 1.0) / size / self.ratio))
        elif self.symmetric:
            score = min(score, 0.0)  # not the smallest: the release looks at that one alone
        return Suspect(arm.pair, score, "patch", arm.inversion)


@dataclass(eq=False)
class _Played:
    """What an arm has come to."""

    pair: Pair
    whole: float
    """Size of a patch that covers the image."""
    row: int
    inversion: Inversion | None = None
    size: float = math.inf
    """Of the smallest confirmed patch."""
    epochs: int = 0
    improved: int = 0
    speed: float = -math.inf

    def told(self) -> dict[str, Any]:
        """For the facts."""
        pair = {"victim": self.pair.victim, "target": self.pair.target}
        return pair | {"size": plain(self.size), "epochs": self.epochs, "improvements": self.improved}


class _Bandit:
    """The scheduler: which arm is searched for the next few epochs."""

    def __init__(
        self, settings: KArm, classifier: Classifier, images: LabelledImages, arms: Sequence[Pair], generator: torch.Generator
    ) -> None:
        self._settings, self._generator = settings, generator
        self._family = FAMILIES["patch"]
        drawn = [_drawn(images, pair, settings.samples, generator) for pair in arms]
        count = min(len(pixels) for pixels in drawn)
        search = _search(settings.pull, count)
        one_batch = Speed(chunk=search.stages[0].batch)  # an arm is searched alone, and passes are filled up
        self._engine = Engine(classifier, torch.stack([pixels[:count] for pixels in drawn]), search, one_batch)
        channels, height, width = classifier.image_shape
        self._arms = [_Played(pair, float(channels * height * width), row) for row, pair in enumerate(arms)]

    def played(self, epochs: int, told: Callable[[float], None]) -> list[_Played]:
        """The arms after so many epochs in all, or when each is done."""
        left, arm = epochs, self._arms[0]
        while left > 0:
            self._pull(arm)
            left -= self._settings.pull
            told(min(1.0, 1 - left / epochs))
            running = [a for a in self._arms if not self._is_done(a)]
            if not running:
                break
            arm = self._next(running)
        return self._arms

    def _next(self, running: Sequence[_Played]) -> _Played:
        """The coldest arm while there are cold ones; then the best, or any."""
        settings = self._settings
        cold = [arm for arm in running if arm.improved < settings.warm_up and arm.epochs < settings.given_up]
        if cold:
            return min(cold, key=lambda arm: (arm.epochs, arm.row))
        if float(torch.rand((), generator=self._generator)) < settings.epsilon:
            return running[int(torch.randint(len(running), (), generator=self._generator))]
        return max(running, key=lambda arm: arm.speed + settings.beta / self._at_reference(arm))

    def _is_done(self, arm: _Played) -> bool:
        """Whether it has improved often enough, or has no patch for so long that none is to come."""
        hopeless = not math.isfinite(arm.size) and arm.epochs >= self._settings.given_up
        return hopeless or arm.improved >= self._settings.rounds

    def _pull(self, arm: _Played) -> None:
        """Search an arm's patch for some more epochs, from where it is."""
        before = arm.inversion
        start, weight = (None, None) if before is None else (before.trigger, before.weight)
        request = Request(arm.pair, arm.row, drawn_seed(self._generator), start, weight)
        found = invert(self._engine, self._family, [request])[0]
        arm.epochs += self._settings.pull
        if found.outcome is Outcome.FOUND and found.size < arm.size:
            arm.improved += 1
            arm.size, arm.inversion = found.size, found
            arm.speed = (_FIRST - self._at_reference(arm)) / (arm.improved + arm.epochs / 2)
        elif not math.isfinite(arm.size):
            arm.inversion = found

    @staticmethod
    def _at_reference(arm: _Played) -> float:
        """The mask's size in pixels of the release's images."""
        return arm.size / arm.whole * _REFERENCE


def _doubts(played: Sequence[_Played]) -> tuple[str, ...]:
    broken = sum(arm.inversion is not None and arm.inversion.outcome is Outcome.NOT_FINITE for arm in played)
    return (f"{broken} of {len(played)} searches met numbers that are not finite",) if broken else ()


def _search(epochs: int, count: int) -> InversionSettings:
    """Neural Cleanse's search, which is the release's too, with its factor for the cost, for some epochs."""
    batch = min(32, count)
    steps = epochs * math.ceil(count / batch)
    stage = Stage(restarts=1, steps=steps, batch=batch, rates=(0.1, 0.1), accept_every=max(1, steps // epochs))
    return replace(NEURAL_CLEANSE.settings, stages=(stage,), lower_by=1.5)


def _drawn(images: LabelledImages, pair: Pair, count: int, generator: torch.Generator) -> UInt8[Tensor, "n c h w"]:
    """Images of the victim, or of every class but the target."""
    fits = images.labels != pair.target if pair.victim is None else images.labels == pair.victim
    return images.pixels[shuffled(_indices(fits), generator)[:count]]


def _indices(fits: Tensor) -> Int64[Tensor, " k"]:
    return fits.nonzero().flatten()


def _logits(classifier: Classifier, images: LabelledImages, at_once: int = 256) -> Float[Tensor, "n classes"]:
    device = device_of(classifier)
    with evaluating(classifier), torch.no_grad():
        return torch.cat([classifier(part.to(device).float() / 255).float().cpu() for part in images.pixels.split(at_once)])
