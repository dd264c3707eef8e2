"""MM-BD: a backdoor's target class can be made surer of itself than any other, whatever the trigger; no image is needed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from scipy.stats import gamma
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.engine import leads_of
from orthogon.evaluate import evaluating
from orthogon.frozen import FrozenCopy, speed_for
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.matrix import plain
from orthogon.pairs import Pair
from orthogon.ranges import require
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.scanner import OnProgress, Scanner, part_of

_FEWEST = 4
"""Classes from which a null distribution can be fitted to all but one."""
_SURE = 1e-300
"""The smallest p-value that is told apart from 0."""
_LEAST_SPREAD = 0.05
"""Deviation of the null distribution, as a share of its mean, below which it counts as this: from a few classes whose margins
happen to be alike nobody can tell that the next one would be, too."""


@dataclass(frozen=True)
class MMBD(Scanner):
    """The largest margin (a class's logit less the largest other one) that any image has, per class; one far above the others.

    From random images, gradient ascent on the margin within [0, 1]. A gamma distribution is fitted to the margins of all classes
    but the largest's; the p-value is the probability that the largest of so many draws from it is as large as the one seen.

    Departs from the release: the distribution starts at 0, since three parameters cannot be fitted to the margins of a few
    classes, and is never narrower than a twentieth of its mean; images are projected to [0, 1], where the release clamps what
    the model sees and goes on; no class stops early.
    """

    starts: int = 30
    """Random images per class (the release: 30)."""
    steps: int = 300
    """Gradient steps (the release: 300)."""
    rate: float = 0.01
    """Of gradient ascent, for images in [0, 1] (the release: 0.01)."""
    significance: float = 0.05
    """p-value below which the class with the largest margin is a backdoor's target (section 4)."""

    name: ClassVar[str] = "mm-bd"
    source: ClassVar[str] = "Wang et al. 2024, MM-BD: Post-Training Detection of Backdoor Attacks, and its release"
    needs_images: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self, counts=("starts", "steps"), positive=("rate", "significance"), below_one=("significance",))

    @property
    def threshold(self) -> float:
        """The score of a p-value of `significance`."""
        return -math.log10(self.significance)

    @property
    def rule(self) -> str:
        """The paper's."""
        return (
            "-log10 of the p-value of the largest maximum margin among the classes, a backdoor above "
            f"{self.threshold:.3g} (p < {self.significance:g})"
        )

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """The p-value of the class with the largest margin; the images are not looked at."""
        told = part_of(on_progress, 0.0, 1.0, f"largest margins of {len(classifier.classes)} classes")
        margins = largest_margins(classifier, self.starts, self.steps, self.rate, generator, told)
        facts = {"margins": [plain(margin) for margin in margins]}
        if not all(map(math.isfinite, margins)):
            return Evidence(math.nan, facts=facts, doubts=("the margin of a class is not finite",))
        if len(margins) < _FEWEST:
            doubt = f"{len(margins)} classes are too few to fit what their margins would be without a backdoor ({_FEWEST})"
            return Evidence(math.nan, facts=facts, doubts=(doubt,))
        p = p_value(margins)
        score = -math.log10(max(p, _SURE))
        target = max(range(len(margins)), key=margins.__getitem__)
        return Evidence(score, (Suspect(Pair(None, target), score),), {"score": score}, facts | {"p_value": p})


def largest_margins(
    classifier: Classifier,
    starts: int,
    steps: int,
    rate: float,
    generator: torch.Generator,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[float]:
    """The largest margin found of each class: its logit less the largest other one, in float32 by the classifier itself."""
    device, classes, found = device_of(classifier), len(classifier.classes), list[float]()

    def negative_margin(logits: Float[Tensor, "n classes"], targets: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        return -leads_of(logits, targets)

    speed = speed_for(classifier, classes * starts * steps)
    with evaluating(classifier):
        copy = FrozenCopy(classifier, negative_margin, device, speed)
    for some in torch.arange(classes).split(max(1, speed.chunk // starts)):  # as many as fill a chunk
        images = torch.rand(len(some) * starts, *classifier.image_shape, generator=generator).to(device)
        targets = some.repeat_interleave(starts).to(device)
        weights = torch.ones(len(images), device=device)
        for step in range(steps):
            _, pull = copy.gradient(images, targets, weights)
            images = (images - rate * pull.float()).clamp_(0, 1)
            if step % 20 == 0:
                on_progress((len(found) + len(some) * step / steps) / classes)
        with evaluating(classifier), torch.no_grad():
            leads = leads_of(classifier(images).float(), targets)
        found += leads.view(len(some), starts).amax(1).tolist()
    on_progress(1.0)
    return found


def p_value(margins: Sequence[float]) -> float:
    """That the largest of so many draws from a gamma distribution, fitted to all margins but the largest, is as large as it.

    Margins at or below 0 are those of classes that nothing is taken for; the smallest positive number stands for them.
    """
    above = sorted(max(margin, 1e-6) for margin in margins)
    *null, largest = above
    mean, narrowest = statistics.fmean(null), _LEAST_SPREAD**-2  # a gamma distribution's deviation is mean / √shape
    shape = gamma.fit(null, floc=0)[0] if null[-1] - null[0] > 1e-3 * mean else narrowest
    shape = min(shape, narrowest)
    beyond = float(gamma.sf(largest, shape, scale=mean / shape))
    return -math.expm1(len(above) * math.log1p(-min(beyond, 1 - 1e-16)))
