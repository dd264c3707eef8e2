"""The scanner by class distances: a class or a pair that is much nearer than the others, and much nearer than the way back."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from orthogon.classifier import Classifier
from orthogon.distance import measure
from orthogon.engine import leads_of
from orthogon.evaluate import evaluating
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.matrix import plain
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import SCREEN, Protocol, Stage
from orthogon.scanning.evidence import Evidence, Suspect, stamp_of
from orthogon.scanning.neural_cleanse import universal_triggers
from orthogon.scanning.scanner import OnProgress, Scanner, drawn_seed, part_of
from orthogon.triggers import FAMILIES, TriggerFamily

_LEAST_SPREAD = 0.3
"""Deviation of the logarithms of sizes below which it counts as this: searches of one pair differ by so much."""
_SHORTFALL = 3.0
"""What missing all samples adds to the logarithm of a size: missing a tenth counts as a third more."""
_SHARPNESS = 3.0
"""Of the smooth maximum: six equal values come to 0.6 deviations more."""
_RANKED = 10
"""Images per class by which a partial probe's victims are ranked."""
_MOST_BROKEN = 0.1
"""Share of a family's searches that may meet numbers that are not finite; with more, the others have nothing to stand out of."""
_SHOWN = 4
"""Suspects that are kept, of all families."""
_PROBED, _SCREENED = 0.25, 0.55
"""Shares of a family's work that are done when the universal probes, and the pairs, are known."""

_PAIRS = Protocol(
    "screen",
    SCREEN.samples,
    replace(
        SCREEN.settings,
        stages=(
            Stage(restarts=2, steps=30, batch=8, rates=(0.3, 0.15)),
            Stage(restarts=1, steps=30, batch=10, rates=(0.15, 0.05), accept_every=10),
        ),
    ),
)
"""A quicker `screen`, for many pairs that are only to be ranked."""

_AGAIN = Protocol(
    "fast",
    SCREEN.samples,
    replace(
        SCREEN.settings,
        stages=(
            Stage(restarts=4, steps=50, batch=16, rates=(0.3, 0.15)),
            Stage(restarts=1, steps=150, batch=24, rates=(0.15, 0.02), accept_every=10),
        ),
    ),
)
"""A quicker `fast`, for the few that are suspected."""


@dataclass(frozen=True)
class Distance(Scanner):
    """Class distances of three trigger families, patch, filter and warp; what stands out of them is suspicious.

    For each family: (1) a universal trigger per class is probed quickly. (2) Pairs are screened: all of them where there are few
    classes; of many, those that a partial probe per class names, a trigger that needs to turn only as many images as one or two
    classes have, and so shows which class it turns the most easily. (3) The nearest classes and pairs are inverted thoroughly,
    for the triggers that are shown.

    A universal trigger is as suspicious as it lies below the median of all classes' ones; a pair, as it lies below the median of
    all pairs and below the way back, whichever is less: classes that look alike are near both ways, a planted backdoor leads one
    way. Both are counted in deviations of the logarithms of sizes (1.4826 times the median absolute deviation), less what the
    largest of so many draws from a normal distribution comes to. The score is a smooth maximum of both over all families.
    """

    families: tuple[str, ...] = ("patch", "filter", "warp")
    """Of triggers."""
    samples: int = 50
    """Images per victim to search and judge on; fewer where a class has fewer."""
    pairs_per_class: int = 9
    """Pairs screened of each target class, in both directions; all of them where there are no more."""
    universal_again: int = 2
    """Nearest classes whose universal triggers are inverted thoroughly, per family."""
    pairs_again: int = 2
    """Nearest pairs that are inverted thoroughly, per family."""
    flagged_above: float = 2.5
    """Score above which a model without a calibration is called backdoored. If the logarithms of ten classes' sizes were drawn
    from normal distributions with a deviation of 0.5, one model in twenty would be flagged; with 0.3, none in a hundred."""

    name: ClassVar[str] = "distance"
    source: ClassVar[str] = "orthogon: class distances (MOTH, section III) of several families, compared among the classes"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.families if name not in FAMILIES]:
            raise ValueError(f"families {', '.join(unknown)} are none of {', '.join(FAMILIES)}")
        if not self.families:
            raise ValueError("families must name one or more, got none")
        if min(self.samples, self.pairs_per_class, self.universal_again, self.pairs_again) < 1:
            raise ValueError("samples, pairs_per_class, universal_again and pairs_again must be at least 1")

    @property
    def threshold(self) -> float:
        """What chance alone seldom leads to; a calibration does better."""
        return self.flagged_above

    @property
    def rule(self) -> str:
        """What the score counts."""
        return (
            "by how many deviations a class or a pair is nearer than chance leads one to expect of the nearest, a backdoor above "
            f"{self.flagged_above:g}"
        )

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """How far the nearest class and the nearest pair stand out, in each family."""
        assert images is not None  # the harness sees to it
        samples = min(self.samples, min(images.counts()))
        looks = []
        for number, family in enumerate(self.families):
            begun, width = number / len(self.families), 1 / len(self.families)
            look = _Look(self, classifier, images, family, samples, generator)
            looks.append(look.taken(lambda share, note, b=begun, w=width: on_progress(b + w * share, note)))
        suspects = ranked([suspect for seen in looks for suspect in seen.suspects], self.flagged_above)
        features = {name: value for seen in looks for name, value in seen.features.items()}
        score = smooth_maximum([features[f"{seen.family}.{kind}"] for seen in looks for kind in ("universal", "pair")])
        if max(seen.broken for seen in looks) > _MOST_BROKEN:
            score = math.nan
        facts = {"samples": samples, **{seen.family: seen.facts for seen in looks}}
        return Evidence(score, tuple(suspects[:_SHOWN]), features, facts, tuple(d for seen in looks for d in seen.doubts))


def ranked(suspects: Sequence[Suspect], flagged_above: float) -> list[Suspect]:
    """The most suspicious first; a universal trigger that is suspicious enough goes before the pairs to its target."""

    def explained(suspect: Suspect) -> Suspect:
        if suspect.pair.victim is not None or suspect.score <= flagged_above:
            return suspect
        same = [s.score for s in suspects if s.pair.target == suspect.pair.target and s.family == suspect.family]
        return replace(suspect, score=max(same))

    return sorted(map(explained, suspects), key=lambda s: (-s.score, s.pair.victim is not None))


def smooth_maximum(values: Iterable[float]) -> float:
    """log of the sum of exponentials, of values taken three times: the largest, and somewhat more where several are as large."""
    known = [_SHARPNESS * value for value in values]
    largest = max(known)
    return (largest + math.log(sum(math.exp(value - largest) for value in known))) / _SHARPNESS


def expected_largest(count: int) -> float:
    """About the mean of the largest of so many draws from the standard normal distribution (Blom 1958)."""
    return statistics.NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def spread_of(logs: Sequence[float]) -> tuple[float, float]:
    """Median and deviation (1.4826 times the median absolute deviation, and no less than searches differ by)."""
    median = statistics.median(logs)
    return median, max(_LEAST_SPREAD, 1.4826 * statistics.median(abs(value - median) for value in logs))


@dataclass(frozen=True, eq=False)
class Seen:
    """What one family of triggers shows."""

    family: str
    features: Mapping[str, float]
    suspects: tuple[Suspect, ...]
    facts: Mapping[str, Any]
    doubts: tuple[str, ...] = ()
    broken: float = 0.0
    """Share of the searches that met numbers that are not finite."""


@dataclass(eq=False)
class _Look:
    """One family's probes, screening and thorough inversions, one after the other."""

    settings: Distance
    classifier: Classifier
    images: LabelledImages
    family: str
    samples: int
    generator: torch.Generator
    logs: dict[Pair, float] = field(default_factory=dict)
    """Logarithms of the quick searches' sizes."""
    again: dict[Pair, Inversion] = field(default_factory=dict)
    """Thorough inversions."""
    outcomes: list[Outcome] = field(default_factory=list)
    """Of all searches, quick and thorough."""

    def taken(self, on_progress: OnProgress) -> Seen:
        """All three steps."""
        self._probe(part_of(on_progress, 0.0, _PROBED, f"{self.family}: universal probes"))
        pairs = self._pairs_to_screen(part_of(on_progress, _PROBED, 0.0, f"{self.family}: partial probes"))
        self._screen(pairs, part_of(on_progress, _PROBED, _SCREENED - _PROBED, f"{self.family}: {len(pairs)} pairs"))
        nearest = self._nearest()
        self._invert(nearest, part_of(on_progress, _SCREENED, 1 - _SCREENED, f"{self.family}: the nearest again"))
        return self._seen(nearest)

    def _probe(self, told: Callable[[float], None]) -> None:
        protocol = replace(SCREEN, samples=self.samples)
        self._keep(
            universal_triggers(self.classifier, self.images, self.family, protocol, drawn_seed(self.generator), on_progress=told)
        )

    def _pairs_to_screen(self, told: Callable[[float], None]) -> list[Pair]:
        """All pairs where there are few; else the victims that a partial probe turns most, with their ways back."""
        classes, most = len(self.classifier.classes), self.settings.pairs_per_class
        if classes - 1 <= most:
            return [Pair(a, b) for a in range(classes) for b in range(classes) if a != b]
        share = min(0.9, 1.2 / (classes - 1))
        partial = replace(SCREEN, samples=max(self.samples, 2 * (classes - 1)), settings=replace(SCREEN.settings, asr=share))
        found = universal_triggers(
            self.classifier, self.images, self.family, partial, drawn_seed(self.generator), on_progress=told
        )
        chosen = [Pair(victim, i.pair.target) for i in found if i.trigger for victim in self._most_turned(i)[:most]]
        return list(dict.fromkeys(way for pair in chosen for way in (pair, Pair(pair.target, pair.victim or 0))))

    def _most_turned(self, inversion: Inversion) -> list[int]:
        """Classes by how much a trigger's target leads, on average, on a few stamped images of each, the largest lead first.

        Not by the share that it turns: a trigger that turns all would not tell the classes apart.
        """
        target, device = inversion.pair.target, device_of(self.classifier)
        members = {c: (self.images.labels == c).nonzero().flatten()[:_RANKED] for c in range(len(self.images.classes))}
        stamp = stamp_of(FAMILIES[self.family], inversion.trigger, device)
        leads = {}
        with evaluating(self.classifier), torch.no_grad():
            for c, indices in members.items():
                if c != target and len(indices):
                    logits = self.classifier(stamp(self.images.select(indices).floats(device))).float()
                    leads[c] = float(leads_of(logits, torch.full((len(indices),), target, device=device)).mean())
        return sorted(leads, key=lambda c: -leads[c])

    def _screen(self, pairs: Sequence[Pair], told: Callable[[float], None]) -> None:
        self._keep(self._measured(pairs, replace(_PAIRS, samples=self.samples), told))

    def _nearest(self) -> list[Pair]:
        """The classes and pairs that are to be inverted thoroughly."""
        universal = sorted((p for p in self.logs if p.victim is None), key=self.logs.__getitem__)
        pairs = sorted((p for p in self.logs if p.victim is not None), key=lambda p: -self._nearer(p))
        return [*universal[: self.settings.universal_again], *pairs[: self.settings.pairs_again]]

    def _invert(self, pairs: Sequence[Pair], told: Callable[[float], None]) -> None:
        for inversion in self._measured(pairs, replace(_AGAIN, samples=self.samples), told):
            self.again[inversion.pair] = inversion
            self.outcomes.append(inversion.outcome)

    def _measured(self, pairs: Sequence[Pair], protocol: Protocol, told: Callable[[float], None]) -> list[Inversion]:
        return measure(
            *(self.classifier, self.images),
            pairs=pairs,
            family=FAMILIES[self.family],
            protocol=protocol,
            seed=drawn_seed(self.generator),
            on_progress=lambda progress: told(progress.done),
        ).inversions

    def _keep(self, found: Iterable[Inversion]) -> None:
        for inversion in found:
            self.logs[inversion.pair] = self._log(inversion)
            self.outcomes.append(inversion.outcome)

    def _log(self, inversion: Inversion) -> float:
        """Of a size. A search that has found nothing counts with the size of its best attempt, and more for what that misses.

        Of many pairs no filter turns enough samples: the largest size that there is, in their place, would make every pair
        stand out that has one.
        """
        family = FAMILIES[self.family]
        largest = largest_size(family, self.classifier.image_shape)
        if inversion.outcome is Outcome.FOUND:
            return math.log(_within(inversion.size, largest))
        if inversion.outcome is not Outcome.ASR or not inversion.trigger:
            return math.log(largest) + _SHORTFALL
        attempt = {name: value[None] for name, value in inversion.trigger.items()}
        size = largest if family.on_samples else float(family.size(attempt)[0])
        return math.log(_within(size, largest)) + _SHORTFALL * max(0.0, SCREEN.settings.asr - inversion.asr)

    def _nearer(self, pair: Pair) -> float:
        """By how many deviations a pair lies below the median and below the way back, whichever is less."""
        median, spread = spread_of([log for p, log in self.logs.items() if p.victim is not None])
        return (min(median, self.logs.get(_back(pair), median)) - self.logs[pair]) / spread

    def _seen(self, nearest: Sequence[Pair]) -> Seen:
        """Features and suspects. Quick searches are compared with quick ones: a longer one is smaller, whatever it looks for."""
        smallest = {pair: min(self._log(self.again[pair]), self.logs[pair]) for pair in nearest}
        universal = [log for pair, log in self.logs.items() if pair.victim is None]
        median, spread = spread_of(universal)
        both_ways = (len(self.logs) - len(universal)) // 2  # of a pair and its way back, one at most stands out
        chance = {True: expected_largest(len(universal)), False: expected_largest(both_ways)}
        scores = {
            pair: ((median - self.logs[pair]) / spread if pair.victim is None else self._nearer(pair))
            - chance[pair.victim is None]
            for pair in nearest
        }
        largest = math.log(largest_size(FAMILIES[self.family], self.classifier.image_shape))
        features = {}
        for kind, one in (("universal", True), ("pair", False)):
            best = max((pair for pair in nearest if (pair.victim is None) is one), key=scores.__getitem__)
            features[f"{self.family}.{kind}"] = scores[best]
            features[f"{self.family}.{kind}_share"] = smallest[best] - largest
        suspects = tuple(
            Suspect(pair, scores[pair], self.family, self.again[pair]) for pair in nearest if self.again[pair].trigger
        )
        broken = self.outcomes.count(Outcome.NOT_FINITE)
        told = f"{broken} of {len(self.outcomes)} {self.family} searches met numbers that are not finite"
        doubts = (told,) if broken else ()
        return Seen(self.family, features, suspects, self._facts(), doubts, broken / max(1, len(self.outcomes)))

    def _facts(self) -> dict[str, Any]:
        """Sizes, rounded: of every quick search, and of the thorough ones."""
        quick = [[p.victim, p.target, float(f"{math.exp(log):.4g}")] for p, log in self.logs.items()]
        return {"quick": quick, "thorough": [[p.victim, p.target, plain(i.size), plain(i.asr)] for p, i in self.again.items()]}


def largest_size(family: TriggerFamily, image_shape: tuple[int, int, int]) -> float:
    """What stands for "none was found": a patch over the whole image; of other families, what a penalty is weighed by."""
    return float(math.prod(image_shape)) if family.name == "patch" else family.typical(image_shape)


def _within(size: float, largest: float) -> float:
    """A size whose logarithm is finite."""
    return min(max(size, 1e-3 * largest), largest)


def _back(pair: Pair) -> Pair:
    assert pair.victim is not None
    return Pair(pair.target, pair.victim)
