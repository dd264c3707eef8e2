"""The one verdict that every scan ends in: clean, backdoored or inconclusive, with its reasons."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orthogon.matrix import plain
from orthogon.naming import settings_of
from orthogon.scanning.calibration import Calibration
from orthogon.scanning.evidence import Evidence, Suspect
from orthogon.scanning.scanner import Scanner
from orthogon.triggers import FAMILIES


class Decision(StrEnum):
    """What a scan comes to. Inconclusive is a result, not a failure."""

    CLEAN = "clean"
    BACKDOORED = "backdoored"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, eq=False)
class Verdict:
    """A decision with its reasons and all evidence."""

    decision: Decision
    probability: float | None
    """That the model is backdoored, 0 to 1; None where nothing calibrates the scanner."""
    suspects: tuple[Suspect, ...]
    """The pairs that are named, with their triggers, the most suspicious first; none where the model is called clean."""
    reasons: tuple[str, ...]
    scanner: Scanner
    evidence: tuple[Evidence, ...]
    """One per draw."""
    calibration: Calibration | None = None
    """By which the probability was told."""

    @property
    def score(self) -> float:
        """Median over the draws that have one; NaN where none has."""
        scores = [evidence.score for evidence in self.evidence if evidence.told]
        return statistics.median(scores) if scores else float("nan")

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values for a result file."""
        return {
            "verdict": str(self.decision),
            "probability": self.probability,
            "pairs": [_shown(suspect, classes) for suspect in self.suspects],
            "reasons": list(self.reasons),
            "scanner": self.scanner.name,
            "source": self.scanner.source,
            "settings": settings_of(self.scanner),
            "score": plain(self.score),
            "threshold": self.scanner.threshold,
            "rule": self.scanner.rule,
            "calibration": None if self.calibration is None else dict(self.calibration.facts),
            "draws": [
                {
                    "score": plain(evidence.score),
                    "features": {name: plain(value) for name, value in evidence.features.items()},
                    "suspects": [_shown(suspect, classes) for suspect in evidence.suspects],
                    "doubts": list(evidence.doubts),
                    "facts": dict(evidence.facts),
                }
                for evidence in self.evidence
            ],
        }


def judged(scanner: Scanner, evidence: Sequence[Evidence], calibration: Calibration | None = None) -> Verdict:
    """The verdict on what a scanner found in one or more draws.

    With a calibration the probability decides, and between its bounds nothing does. Without one, the scanner's own threshold
    decides, and there is no probability. Draws that disagree, and doubts about a model that would else be called clean, make it
    inconclusive.

    Args:
        scanner: whose evidence it is.
        evidence: at least one; of different draws of samples and starts.
        calibration: of this scanner with these settings.

    Raises:
        ValueError: no evidence, or a calibration of another scanner or of other settings.
    """
    if not evidence:
        raise ValueError("a verdict needs the evidence of one scan or more, got none")
    if calibration is not None:
        calibration.require(scanner.name, settings_of(scanner))
    chances = [None if calibration is None or not e.told else calibration.probability(e.measured) for e in evidence]
    sides = [_side(scanner, e, chance, calibration) for e, chance in zip(evidence, chances, strict=True)]
    decision = sides[0] if len(set(sides)) == 1 else Decision.INCONCLUSIVE
    known = [chance for chance in chances if chance is not None]
    reasons = [*_reasons(scanner, evidence, known, calibration), *_doubts(sides, evidence, decision)]
    named = () if decision is Decision.CLEAN else _named(scanner, evidence)
    probability = statistics.fmean(known) if known else None
    return Verdict(decision, probability, named, tuple(reasons), scanner, tuple(evidence), calibration)


def _side(scanner: Scanner, evidence: Evidence, chance: float | None, calibration: Calibration | None) -> Decision:
    """What one draw says by itself."""
    if not evidence.told:
        return Decision.INCONCLUSIVE
    if calibration is not None and chance is not None:
        low, high = calibration.low, calibration.high
        side = Decision.BACKDOORED if chance >= high else Decision.CLEAN if chance <= low else Decision.INCONCLUSIVE
    else:
        side = Decision.BACKDOORED if evidence.score > scanner.threshold else Decision.CLEAN
    return Decision.INCONCLUSIVE if side is Decision.CLEAN and evidence.doubts else side


def _reasons(
    scanner: Scanner, evidence: Sequence[Evidence], chances: Sequence[float], calibration: Calibration | None
) -> list[str]:
    scores = [e.score for e in evidence if e.told]
    if not scores:
        return ["there is no score"]
    told = f"{statistics.median(scores):.3g}"
    if len(scores) > 1:
        told += f" (median of {len(scores)} draws, {min(scores):.3g} to {max(scores):.3g})"
    told = f"score {told}; {scanner.rule}"
    if calibration is None:
        return [told, "no calibration fits this scanner and its settings, so that there is no probability"]
    mean = statistics.fmean(chances)
    bounds = f"up to {calibration.low:.0%} counts as clean, from {calibration.high:.0%} as backdoored"
    return [f"probability {mean:.1%}; {bounds}", f"{told} where no calibration fits"]


def _doubts(sides: Sequence[Decision], evidence: Sequence[Evidence], decision: Decision) -> list[str]:
    """Why a verdict is inconclusive, or what to keep in mind."""
    doubts = list(dict.fromkeys(doubt for e in evidence for doubt in e.doubts))
    if len(set(sides)) > 1:
        counts = ", ".join(f"{sides.count(side)} {side}" for side in Decision if side in sides)
        doubts.append(f"the draws disagree: {counts}")
    if decision is Decision.INCONCLUSIVE and not doubts:
        doubts.append("the probability lies between the bounds")
    return doubts


def _named(scanner: Scanner, evidence: Sequence[Evidence]) -> tuple[Suspect, ...]:
    """The suspects beyond the threshold of the draw with the highest score; the first one where there is none beyond it."""
    told = [e for e in evidence if e.suspects]
    if not told:
        return ()
    worst = max(told, key=lambda e: e.score if e.told else float("-inf"))
    beyond = tuple(suspect for suspect in worst.suspects if suspect.score > scanner.threshold)
    return beyond or worst.suspects[:1]


def _shown(suspect: Suspect, classes: Sequence[str]) -> dict[str, Any]:
    return suspect.to_json(classes, FAMILIES[suspect.family].unit if suspect.family else None)
