"""What the sizes of one family's triggers say of a model: the classes and the pairs that are nearer than chance has them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from orthogon.pairs import Pair
from orthogon.scanning.outliers import below_the_others, expected_largest, spread_of
from orthogon.triggers import TriggerFamily

CLEAN_SPREADS = {"patch": 0.3, "filter": 0.7, "colour": 0.45, "warp": 0.7, "additive": 0.25}
"""Deviation of the logarithms of sizes between the targets of clean models, by family. From three models of the zoo:
cifar10-resnet20-clean-1 and -2, and signs-clean."""
_CLEAN_SPREAD = 0.3
"""Of a family that is not named there."""


@dataclass(frozen=True)
class Sizes:
    """Logarithms of the sizes that quick searches of one family came to."""

    family: str
    most: float
    """The logarithm of `largest_size`; among targets no size counts as more."""
    logs: Mapping[Pair, float]
    """Of universal triggers (victim None), at least of two targets, and of pairs."""

    def targets(self) -> dict[Pair, float]:
        """How far every class, as a target, lies below the others, by its universal trigger and the pairs that lead there.

        No size counts as more than the largest: by how much the searches for the classes that no map of colours
        leads to have failed says nothing of the others, and would hide what stands out among these. One that is found does not
        stand out of many that are not, as it would among pairs: the deviation of clean models is one of capped sizes, too.
        """
        alone = {pair: min(log, self.most) for pair, log in self.logs.items() if pair.victim is None}
        pairs = {pair.target: list[float]() for pair in alone}
        for pair, log in self.logs.items():
            if pair.victim is not None and pair.target in pairs:
                pairs[pair.target].append(min(log, self.most))
        both = [(log + statistics.median(pairs[pair.target] or [log])) / 2 for pair, log in alone.items()]
        return dict(zip(alone, below_the_others(both, CLEAN_SPREADS.get(self.family, _CLEAN_SPREAD)), strict=True))

    def pairs(self) -> dict[Pair, float]:
        """By how many deviations every screened pair lies below the median of all and below the way back, whichever is less."""
        logs = {pair: log for pair, log in self.logs.items() if pair.victim is not None}
        median, spread = spread_of(list(logs.values()))
        beside = {pair: min(median, logs.get(_back(pair), median)) for pair in logs}
        chance = expected_largest(len(logs) // 2)  # of a pair and its way back, one at most stands out
        return {pair: (beside[pair] - log) / spread - chance for pair, log in logs.items()}

    def features(self) -> dict[str, float]:
        """Of the target and of the pair that stand out most: by how much, and how small their triggers are.

        Quick searches are compared with quick ones: a longer one finds something smaller, whatever it looks for.
        """
        features = {}
        for kind, scores in (("target", self.targets()), ("pair", self.pairs())):
            best = max(scores, key=scores.__getitem__)
            features[f"{self.family}.{kind}"] = scores[best]
            features[f"{self.family}.{kind}_share"] = self.logs[best] - self.most
        return features


def largest_size(family: TriggerFamily, image_shape: tuple[int, int, int]) -> float:
    """What stands for "none was found", and the most that a size counts for: a patch over the whole image; of other families,
    what a penalty is weighed by."""
    return float(math.prod(image_shape)) if family.name == "patch" else family.typical(image_shape)


def _back(pair: Pair) -> Pair:
    assert pair.victim is not None
    return Pair(pair.target, pair.victim)
