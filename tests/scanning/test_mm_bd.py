from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.special import digamma, gammainc
from torch import nn

from orthogon.classifier import Classifier
from orthogon.frozen import Speed
from orthogon.scanning import Decision, mm_bd, scan
from orthogon.scanning.mm_bd import MMBD, largest_margins, p_value

STRENGTHS = (2.0, 1.5, 2.5, 1.8, 2.2, 30.0)


def classifier(strengths: tuple[float, ...] = STRENGTHS) -> Classifier:
    """Each class has a pixel of its own, so that its largest margin is its strength."""
    linear = nn.Linear(len(strengths), len(strengths), bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.diag(torch.tensor(strengths)))
    names = [str(c) for c in range(len(strengths))]
    return Classifier(nn.Sequential(nn.Flatten(), linear), names, (1, 1, len(strengths))).eval()


def test_the_largest_margin_of_a_linear_classifier(generator: torch.Generator) -> None:
    told: list[float] = []
    found = largest_margins(classifier(), 4, 60, 0.05, generator, told.append)
    assert found == pytest.approx(list(STRENGTHS), rel=0.02)
    assert told[-1] == 1.0
    assert told == sorted(told)


def test_margins_do_not_hang_on_the_classes_that_are_searched_beside(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 5  # few, so that what is found depends on where the searches began
    beside = largest_margins(classifier(), 4, steps, 0.05, generator)
    monkeypatch.setattr(mm_bd, "speed_for", lambda *_: Speed(chunk=4))
    alone = largest_margins(classifier(), 4, steps, 0.05, torch.Generator().manual_seed(generator.initial_seed()))
    assert beside == pytest.approx(alone, rel=1e-2)
    assert max(alone) < max(STRENGTHS) - 0.1


def test_the_p_value_by_the_equations_of_the_gamma_distribution() -> None:
    """Shape by log k - digamma(k) = log mean - mean log, scale by the mean, the tail by the incomplete gamma function."""
    null, largest = [2.0, 1.5, 2.5, 1.8, 2.2], 4.0
    mean, log_mean = sum(null) / 5, sum(map(math.log, null)) / 5
    shape = brentq(lambda k: math.log(k) - float(digamma(k)) - math.log(mean) + log_mean, 0.1, 1e4)
    assert isinstance(shape, float)
    below = float(gammainc(shape, largest * shape / mean))
    assert p_value([*null, largest]) == pytest.approx(1 - below**6, rel=1e-3)
    assert p_value([largest, *null]) == p_value([*null, largest])


def test_p_values_of_margins_that_say_nothing() -> None:
    assert p_value([3.0, 3.0, 3.0, 3.0]) > 0.9
    assert 0 < p_value([-1.0, 0.5, 0.7, 0.9]) <= 1


@pytest.mark.parametrize("null", [(3.0, 3.0, 3.0), (3.0, 3.0 + 1e-6, 3.0 - 1e-6), (3.0, 3.05, 2.95)])
def test_margins_that_happen_to_be_alike_are_no_certainty(null: tuple[float, float, float]) -> None:
    """A gamma distribution of shape 400 has a deviation of a twentieth of its mean."""
    expected = 1 - float(gammainc(400, 3.2 * 400 / 3)) ** 4
    assert p_value([*null, 3.2]) == pytest.approx(expected, rel=1e-3)
    assert 0.2 < p_value([*null, 3.2]) < 0.5
    assert p_value([*null, 9.0]) < 1e-6


def test_a_class_that_can_be_surest_is_flagged_and_no_image_is_needed(generator: torch.Generator) -> None:
    scanner = MMBD(starts=3, steps=60, rate=0.05)
    verdict = scan(classifier(), None, scanner, generator)
    assert verdict.decision is Decision.BACKDOORED
    assert (verdict.suspects[0].pair.victim, verdict.suspects[0].pair.target) == (None, 5)
    assert verdict.evidence[0].facts["p_value"] < 0.05
    healthy = scan(classifier((*STRENGTHS[:5], 2.4)), None, scanner, generator)
    assert healthy.decision is Decision.CLEAN
    assert healthy.score < verdict.score


def test_few_classes_and_broken_models_are_inconclusive(generator: torch.Generator) -> None:
    scanner = MMBD(starts=1, steps=1)
    few = scan(classifier((1.0, 2.0, 3.0)), None, scanner, generator)
    assert few.decision is Decision.INCONCLUSIVE
    assert "3 classes are too few" in few.reasons[-1]
    broken = scan(classifier((*STRENGTHS[:5], math.nan)), None, scanner, generator)
    assert broken.decision is Decision.INCONCLUSIVE
    assert "not finite" in broken.reasons[-1]


@pytest.mark.parametrize("changes", [{"starts": 0}, {"steps": 0}, {"rate": 0.0}, {"significance": 0.0}, {"significance": 1.0}])
def test_settings_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))} must be"):
        MMBD(**changes)  # pyright: ignore[reportArgumentType]
