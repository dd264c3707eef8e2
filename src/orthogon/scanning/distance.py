"""The scanner by class distances: a class or a pair that is much nearer than the others, and much nearer than the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
from orthogon.ranges import require
from orthogon.scanning.evidence import Evidence, Suspect, stamp_of
from orthogon.scanning.neural_cleanse import universal_triggers
from orthogon.scanning.outliers import smooth_maximum
from orthogon.scanning.scanner import OnProgress, Scanner, at_hand, drawn_seed, part_of
from orthogon.scanning.sizes import Sizes, largest_size
from orthogon.triggers import FAMILIES

_EXPLAINS = 1.0
"""Score of a target from which its universal trigger is told before the pairs that lead to it."""
_SHORTFALL = 3.0
"""What missing all samples adds to the logarithm of a size: missing a tenth counts as a third more."""
_RANKED = 10
"""Images per class by which a partial probe's victims are ranked."""
_MOST_BROKEN = 0.1
"""Share of a family's searches that may meet numbers that are not finite; with more, the others have nothing to stand out of."""
_KNOWN_SAMPLES = 20
"""Images per class of the scarcest models that the calibration is fitted on."""
_NEAREST = 2
"""Classes, and pairs, that a family names as suspects."""
_PROBED, _QUICK = 0.35, 0.9
"""Share of a family's quick searches that are universal probes, and of a scan's work that all quick searches are."""

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
    """Class distances of four trigger families, patch, colour, warp and additive; what stands out of them is suspicious.

    For each family: (1) a universal trigger per class is probed quickly. (2) Pairs are screened: all of them where there are few
    classes; of many, those that a partial probe per class names, a trigger that needs to turn only as many images as one or two
    classes have, and so shows which class it turns the most easily. (3) Of all families, the most suspicious classes and pairs
    are inverted thoroughly, for the triggers that are shown.

    A target is as suspicious as its size lies below the other targets': the size of its universal trigger, and that of the pairs
    that lead there, on average. How far is counted by a moderated t-statistic (Smyth 2004), since few classes tell little of how
    much targets differ; it is told as what a normal distribution leads to as seldom, the number of classes allowed for. A pair is
    as suspicious as it lies below the median of all pairs and below the way back, whichever is less: classes that look alike are
    near both ways, a planted backdoor leads one way. This is counted in deviations of the logarithms of sizes (1.4826 times the
    median absolute deviation), less what the largest of so many draws from a normal distribution comes to. The score is a smooth
    maximum of both over all families.
    """

    families: tuple[str, ...] = ("patch", "colour", "warp", "additive")
    """Of triggers."""
    samples: int = 50
    """Images per victim to search and judge on; fewer where a class has fewer, but 20 of all for a universal trigger."""
    pairs_per_class: int = 9
    """Pairs screened of each target class, in both directions; all of them where there are no more."""
    again: int = 4
    """Most suspicious classes and pairs, of all families, that are inverted thoroughly and told."""
    flagged_above: float = 2.5
    """Score above which a model without a calibration is called backdoored. If the sizes of ten targets differed by chance alone
    as those of clean models do, one model in forty would be flagged; with half as much more between them, one in ten."""

    name: ClassVar[str] = "distance"
    source: ClassVar[str] = "orthogon: class distances (MOTH, section III) of several families, compared among the classes"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.families if name not in FAMILIES]:
            raise ValueError(f"families {', '.join(unknown)} are none of {', '.join(FAMILIES)}")
        if not self.families:
            raise ValueError("families must name one or more, got none")
        require(self, counts=("samples", "pairs_per_class", "again"))

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
        looks, each = dict[str, _Look](), _QUICK / len(self.families)
        for number, family in enumerate(self.families):
            looks[family] = _Look(self, classifier, images, family, samples, generator)
            looks[family].search(lambda share, note, begun=number * each: on_progress(begun + each * share, note))
        suspects = ranked([suspect for look in looks.values() for suspect in look.suspects()])[: self.again]
        suspected = list(dict.fromkeys(suspect.family for suspect in suspects if suspect.family))
        for number, family in enumerate(suspected):
            again = (1 - _QUICK) / len(suspected)
            told = part_of(on_progress, _QUICK + number * again, again, f"{family}: the most suspicious again")
            looks[family].invert([suspect.pair for suspect in suspects if suspect.family == family], told)
        features = {name: value for look in looks.values() for name, value in look.sizes.features().items()}
        score = smooth_maximum([features[f"{family}.{kind}"] for family in looks for kind in ("target", "pair")])
        if max(look.broken for look in looks.values()) > _MOST_BROKEN:
            score = math.nan
        shown = tuple(replace(s, inversion=looks[s.family].smallest(s.pair)) for s in suspects if s.family)
        facts = {"samples": samples, **{family: look.facts() for family, look in looks.items()}}
        doubts = [doubt for look in looks.values() for doubt in look.doubts()]
        if samples < min(self.samples, _KNOWN_SAMPLES):
            doubts.append(
                f"{samples} images of a class say less of its pairs than {_KNOWN_SAMPLES}, the fewest that were measured"
            )
        return Evidence(score, shown, features, facts, tuple(doubts))


def ranked(suspects: Sequence[Suspect]) -> list[Suspect]:
    """The most suspicious first; a universal trigger that is suspicious enough goes before the pairs to its target."""

    def explained(suspect: Suspect) -> Suspect:
        if suspect.pair.victim is not None or suspect.score <= _EXPLAINS:
            return suspect
        same = [s.score for s in suspects if s.pair.target == suspect.pair.target and s.family == suspect.family]
        return replace(suspect, score=max(same))

    return sorted(map(explained, suspects), key=lambda s: (-s.score, s.pair.victim is not None))


@dataclass(eq=False)
class _Look:
    """What one family of triggers shows: quick searches of all classes and of pairs, and thorough ones of suspects."""

    settings: Distance
    classifier: Classifier
    images: LabelledImages
    family: str
    samples: int
    generator: torch.Generator
    logs: dict[Pair, float] = field(default_factory=dict)
    """Logarithms of the quick searches' sizes."""
    found: dict[Pair, Inversion] = field(default_factory=dict)
    """By the quick searches."""
    again: dict[Pair, Inversion] = field(default_factory=dict)
    """By the thorough ones."""

    def search(self, on_progress: OnProgress) -> None:
        """The universal probes, and the pairs."""
        self._probe(part_of(on_progress, 0.0, _PROBED, f"{self.family}: universal probes"))
        pairs = self._pairs_to_screen(part_of(on_progress, _PROBED, 0.0, f"{self.family}: partial probes"))
        self._screen(pairs, part_of(on_progress, _PROBED, 1 - _PROBED, f"{self.family}: {len(pairs)} pairs"))

    def invert(self, pairs: Sequence[Pair], told: Callable[[float], None]) -> None:
        """Search some again, thoroughly."""
        again = self._measured(pairs, replace(_AGAIN, samples=self.samples), told)
        self.again |= {inversion.pair: inversion for inversion in again}

    def smallest(self, pair: Pair) -> Inversion | None:
        """What is to be shown of a pair: the smaller of what both searches found; None where neither has a trigger."""
        tried = [found[pair] for found in (self.again, self.found) if pair in found and found[pair].trigger]
        return min(tried, key=self._log, default=None)

    def _probe(self, told: Callable[[float], None]) -> None:
        protocol = replace(SCREEN, samples=self._probed())
        self._keep(
            universal_triggers(self.classifier, self.images, self.family, protocol, drawn_seed(self.generator), on_progress=told)
        )

    def _probed(self) -> int:
        """Images that a universal trigger is searched on: as many as a pair's, but a scarce class is not to spoil all."""
        return at_hand(self.images, max(self.samples, min(self.settings.samples, _KNOWN_SAMPLES)))

    def _pairs_to_screen(self, told: Callable[[float], None]) -> list[Pair]:
        """All pairs where there are few; else the victims that a partial probe turns most, with their ways back."""
        classes, most = len(self.classifier.classes), self.settings.pairs_per_class
        if classes - 1 <= most:
            return [Pair(a, b) for a in range(classes) for b in range(classes) if a != b]
        share = min(0.9, 1.2 / (classes - 1))
        samples = at_hand(self.images, max(self._probed(), 2 * (classes - 1)))
        partial = replace(SCREEN, samples=samples, settings=replace(SCREEN.settings, asr=share))
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
            self.found[inversion.pair] = inversion

    def _log(self, inversion: Inversion) -> float:
        """Of a size. A search that has found nothing counts with the size of its best attempt, and more for what that misses.

        Of many pairs no map of colours turns enough samples: the largest size that there is, in their place, would make every
        pair stand out of the median that has one.
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

    def suspects(self) -> list[Suspect]:
        """The classes and pairs that stand out most, as the quick searches found them."""
        named = [
            (pair, scores[pair])
            for scores in (self.sizes.targets(), self.sizes.pairs())
            for pair in sorted(scores, key=lambda p: -scores[p])[:_NEAREST]
        ]
        return [Suspect(pair, score, self.family, self.found.get(pair)) for pair, score in named]

    @property
    def sizes(self) -> Sizes:
        """What the quick searches came to."""
        return Sizes(self.family, math.log(largest_size(FAMILIES[self.family], self.classifier.image_shape)), self.logs)

    @property
    def broken(self) -> float:
        """Share of the searches that met numbers that are not finite."""
        outcomes = self._outcomes()
        return outcomes.count(Outcome.NOT_FINITE) / max(1, len(outcomes))

    def doubts(self) -> tuple[str, ...]:
        """What speaks against believing a low score."""
        outcomes = self._outcomes()
        broken = outcomes.count(Outcome.NOT_FINITE)
        return (f"{broken} of {len(outcomes)} {self.family} searches met numbers that are not finite",) if broken else ()

    def _outcomes(self) -> list[Outcome]:
        return [inversion.outcome for inversion in (*self.found.values(), *self.again.values())]

    def facts(self) -> dict[str, Any]:
        """Sizes, rounded: of every quick search, and of the thorough ones."""
        quick = [[p.victim, p.target, float(f"{math.exp(log):.4g}")] for p, log in self.logs.items()]
        return {"quick": quick, "thorough": [[p.victim, p.target, plain(i.size), plain(i.asr)] for p, i in self.again.items()]}


def _within(size: float, largest: float) -> float:
    """A size whose logarithm is finite."""
    return min(max(size, 1e-3 * largest), largest)
