from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.scanning import Decision, scan
from orthogon.scanning.neural_cleanse import NeuralCleanse, _evidence

Toy = Callable[..., Classifier]


def inversions(sizes: list[float], outcome: Outcome = Outcome.ASR) -> list[Inversion]:
    outcomes = [Outcome.FOUND if math.isfinite(size) else outcome for size in sizes]
    return [Inversion(Pair(None, t), o, s, 0.99, {}) for t, (s, o) in enumerate(zip(sizes, outcomes, strict=True))]


def test_the_score_is_the_largest_anomaly_index() -> None:
    sizes = [40.0, 44.0, 37.0, 8.0, 42.0]
    evidence = _evidence(inversions(sizes), tuple("abcde"), 8)
    deviation = 1.4826 * np.median(np.abs(np.array(sizes) - np.median(sizes)))
    assert evidence.score == pytest.approx((np.median(sizes) - 8.0) / deviation)
    assert evidence.suspects[0].pair == Pair(None, 3)
    assert evidence.suspects[0].score == evidence.score > evidence.suspects[1].score
    assert evidence.features == {"score": evidence.score}
    assert evidence.doubts == ()


def test_classes_without_a_patch() -> None:
    evidence = _evidence(inversions([40.0, 44.0, math.nan, 8.0, 42.0]), tuple("abcde"), 8)
    assert evidence.told
    assert evidence.facts["indices"][2] is None
    assert evidence.doubts == ()  # a class that no patch leads to is no target
    broken = _evidence(inversions([40.0, 44.0, math.nan, 41.0, 42.0], Outcome.SAMPLES), tuple("abcde"), 8)
    assert broken.doubts == ("no universal patch could be searched for 'c'",)
    few = _evidence(inversions([40.0, math.nan, math.nan, 8.0, 42.0]), tuple("abcde"), 8)
    assert not few.told
    assert "3 of 5 classes" in few.doubts[0]
    alike = _evidence(inversions([40.0, 40.0, 40.0, 8.0]), tuple("abcd"), 8)
    assert alike.score == 1e6


def test_a_universal_backdoor_is_found_and_a_clean_model_is_not_flagged(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    scanner = NeuralCleanse("screen", samples=8)
    verdict = scan(toy(target=2), rows, scanner, generator)
    assert verdict.decision is Decision.BACKDOORED
    assert verdict.suspects[0].pair == Pair(None, 2)
    mask = verdict.suspects[0].inversion.trigger["mask"]  # pyright: ignore[reportOptionalMemberAccess]
    assert int(mask.argmax()) == mask.numel() - 1
    assert scan(toy(), rows, scanner, generator).score < verdict.score


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"protocol": "quick"}, "'quick' is not one of"),
        ({"samples": 0}, "samples must"),
        ({"flagged_above": 0.0}, "flagged_above"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        NeuralCleanse(**settings)  # pyright: ignore[reportArgumentType]


def test_it_makes_do_with_the_images_that_there_are(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    verdict = scan(toy(target=2), rows, NeuralCleanse("screen", samples=1000), generator)
    (evidence,) = verdict.evidence
    assert evidence.facts["samples"] == len(rows) - 10
    assert verdict.suspects[0].pair == Pair(None, 2)
