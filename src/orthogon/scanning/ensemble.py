"""Several scanners as one: the mean of what their calibrations say, or, without calibrations, the loudest alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.matrix import plain
from orthogon.naming import named, settings_of
from orthogon.scanning.abs import ABS
from orthogon.scanning.calibration import Calibration, shipped
from orthogon.scanning.distance import Distance
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.k_arm import KArm
from orthogon.scanning.mm_bd import MMBD
from orthogon.scanning.neural_cleanse import NeuralCleanse
from orthogon.scanning.scanner import OnProgress, Scanner

MEMBERS: dict[str, type[Scanner]] = {
    kind.name: kind  # pyright: ignore[reportAbstractUsage]
    for kind in (Distance, NeuralCleanse, ABS, KArm, MMBD)
}
"""Every scanner that can be a part of an ensemble."""
_SUREST = 0.01
"""Probabilities count as no nearer to 0 or 1 than this: some tens of reference models show no more."""


@dataclass(frozen=True)
class Ensemble(Scanner):
    """Every member scans. With a calibration for each, the score is the mean of their log-odds of a backdoor.

    The mean and not the sum: all look at the same model and much alike, and a sum would count what they share several times.
    Where a member is not calibrated, the score is the largest of the members' scores less their own thresholds, so that one alarm
    is enough; these are on different scales, and compare with nothing but 0. A member that cannot tell is left out, and told.
    """

    scanners: tuple[str, ...] = tuple(MEMBERS)
    """The members."""
    changes: tuple[str, ...] = ()
    """Settings of members that are not their own, such as mm-bd.steps=100."""

    name: ClassVar[str] = "ensemble"
    source: ClassVar[str] = "orthogon: the mean log-odds of several scanners"

    def __post_init__(self) -> None:
        if len(set(self.scanners)) != len(self.scanners) or not self.scanners:
            raise ValueError(f"scanners must name one or more, each once, got {', '.join(self.scanners) or 'none'}")
        for change in self.changes:
            member, dot, _ = change.partition(".")
            if not dot or member not in self.scanners:
                raise ValueError(f"changes: {change!r} is no SCANNER.NAME=VALUE of {', '.join(self.scanners)}")
        for name in self.scanners:
            self._member(name)

    @property
    def threshold(self) -> float:
        """0: even odds, or the members' own thresholds."""
        return 0.0

    @property
    def rule(self) -> str:
        """What the score is."""
        if self._curves():
            return f"the mean log-odds of {', '.join(self.scanners)}, a backdoor above 0"
        return f"the largest score, less its own threshold, of {', '.join(self.scanners)}, a backdoor above 0"

    def scan(
        self, classifier: Classifier, images: LabelledImages | None, generator: torch.Generator, on_progress: OnProgress
    ) -> Evidence:
        """What all members have found, as one score."""
        found = {}
        for number, name in enumerate(self.scanners):

            def told(share: float, note: str, begun: int = number, member: str = name) -> None:
                on_progress((begun + share) / len(self.scanners), f"{member}: {note}")

            found[name] = self._member(name).scan(classifier, images, generator, told)
        curves = self._curves()
        values = {name: self._value(name, evidence, curves) for name, evidence in found.items() if evidence.told}
        doubts = tuple(f"{name}: {doubt}" for name, evidence in found.items() for doubt in evidence.doubts)
        facts = {
            name: {"score": plain(e.score), "features": dict(e.features), "facts": dict(e.facts)} for name, e in found.items()
        }
        if not values:
            return Evidence(math.nan, facts=facts, doubts=doubts or ("no member has a score",))
        score = fmean(values.values()) if curves else max(values.values())
        return Evidence(score, firsts(found, values), {"score": score}, facts, doubts)

    def members(self) -> tuple[Scanner, ...]:
        """With their settings."""
        return tuple(map(self._member, self.scanners))

    def _member(self, name: str) -> Scanner:
        own = [change.partition(".")[2] for change in self.changes if change.partition(".")[0] == name]
        return named(MEMBERS, "scanner", name, own)

    def _curves(self) -> dict[str, Calibration]:
        """The calibration of each member, by name; none where one of them has none."""
        found = {member.name: shipped(member.name, settings_of(member)) for member in self.members()}
        known = {name: curve for name, curve in found.items() if curve is not None}
        return known if len(known) == len(found) else {}

    def _value(self, name: str, evidence: Evidence, curves: Mapping[str, Calibration]) -> float:
        if name in curves:
            return log_odds(curves[name].probability(evidence.measured))
        return evidence.score - self._member(name).threshold


def log_odds(probability: float) -> float:
    """log(p / (1 - p)), of a probability that is held away from 0 and 1."""
    within = min(max(probability, _SUREST), 1 - _SUREST)
    return math.log(within / (1 - within))


def firsts(found: dict[str, Evidence], values: dict[str, float]) -> tuple[Suspect, ...]:
    """The first suspect of each member, with the member's value as its score, the most suspicious first."""
    loudest: Sequence[str] = sorted(values, key=lambda name: -values[name])
    return tuple(replace(found[name].suspects[0], score=values[name]) for name in loudest if found[name].suspects)
