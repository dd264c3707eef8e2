"""ABS as a scanner, on a network whose neurons and backdoor can be written down."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.scanning import Decision, scan
from orthogon.scanning.abs import ABS, _evidence, _Tried
from orthogon.scanning.stimulation import Candidate

from .conftest import CLASSES, NAMES, SIDE, Neurons

QUICK = ABS(protocol="screen", stimulated_images=20, values=3, largest_patch=0.1)


def subject(target: int | None) -> Classifier:
    return Classifier(Neurons(target), NAMES, (1, SIDE, SIDE)).eval()


def test_a_planted_backdoor_is_found_and_a_clean_network_is_not_flagged(
    rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    verdict = scan(subject(2), rows, QUICK, generator)
    assert verdict.decision is Decision.BACKDOORED
    assert verdict.suspects[0].pair == Pair(None, 2)
    assert verdict.suspects[0].family == "patch"
    (evidence,) = verdict.evidence
    assert ["maps", CLASSES, 2] in [candidate[:3] for candidate in evidence.facts["candidates"]]
    assert evidence.features["patch.reasr"] == evidence.score
    healthy = scan(subject(None), rows, QUICK, generator)
    assert healthy.decision is Decision.CLEAN
    assert healthy.score <= 0.8 < verdict.score


def test_a_filter_that_wipes_a_picture_out_proves_nothing(rows: LabelledImages) -> None:
    """On a grey picture all classes tie, and the first one is taken: as every model takes some class for it."""
    statistics = {name: torch.tensor([value]) for name, value in (("mean", 0.2), ("clean_mean", 0.2), ("clean_std", 0.2))}
    wiped = Inversion(Pair(None, 0), Outcome.ASR, math.nan, 0.0, statistics | {"std": torch.tensor([0.04])})
    kept = Inversion(Pair(None, 0), Outcome.ASR, math.nan, 0.0, statistics | {"std": torch.tensor([0.06])})
    assert QUICK._tried(subject(None), rows, "filter", wiped).reasr == 0.0
    whatever = ABS(least_contrast=0.0)
    nothing = replace(wiped, trigger=statistics | {"std": torch.tensor([0.0])})
    assert whatever._tried(subject(None), rows, "filter", nothing).reasr == 1.0
    assert QUICK._tried(subject(None), rows, "filter", kept).reasr == 0.0  # the brightest row stays the brightest


def test_a_network_that_it_cannot_work_on_is_inconclusive(
    toy: Callable[..., Classifier], rows: LabelledImages, generator: torch.Generator
) -> None:
    verdict = scan(toy(target=1), rows, QUICK, generator)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "has no feature map" in verdict.reasons[-1]


def tried(family: str, target: int, reasr: float, share: float) -> _Tried:
    outcome = Outcome.NOT_FINITE if math.isnan(reasr) else Outcome.FOUND
    return _Tried(family, Inversion(Pair(None, target), outcome, math.nan, reasr, {}), reasr, share)


def test_the_evidence_by_hand() -> None:
    candidates = [Candidate("late", 3, 1, 2.0), Candidate("late", 4, 0, 1.0)]
    evidence = _evidence(
        candidates,
        [tried("patch", 0, 0.5, 0.2), tried("patch", 1, 0.9, 0.1), tried("filter", 0, 0.9, 0.05), tried("filter", 1, 0.2, 1.0)],
    )
    assert evidence.score == 0.9
    assert [(s.family, s.pair.target) for s in evidence.suspects] == [("filter", 0), ("patch", 1), ("patch", 0), ("filter", 1)]
    expected = {"patch.reasr": 0.9, "patch.share": math.log(0.1), "filter.reasr": 0.9, "filter.share": math.log(0.05)}
    assert evidence.features == pytest.approx(expected)
    assert evidence.doubts == ()


def test_no_candidates_and_searches_that_broke() -> None:
    none = _evidence([], [])
    assert (none.score, none.suspects, none.doubts) == (0.0, (), ())
    broken = _evidence([], [tried("patch", 0, math.nan, 1.0), tried("filter", 0, 0.3, 1.0)])
    assert broken.score == 0.3
    assert broken.doubts == ("1 of 2 searches have failed",)
    assert not _evidence([], [tried("patch", 0, math.nan, 1.0)]).told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"values": 1}, "values must be at least 2"),
        ({"judged_images": 0}, "judged_images"),
        ({"least_contrast": 2.0}, "contrast"),
        ({"protocol": "slow"}, "'slow' is not"),
    ],
)
def test_settings_out_of_range(settings: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ABS(**settings)  # pyright: ignore[reportArgumentType]
