from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from orthogon.scanning.outliers import below_the_others, expected_largest, smooth_maximum, spread_of


def test_the_statistics() -> None:
    assert smooth_maximum([0.3, -1.0, 2.0]) == pytest.approx(math.log(math.exp(0.9) + math.exp(-3) + math.exp(6)) / 3)
    assert smooth_maximum([800.0, 1.0]) == 800.0
    logs = [1.0, 2.0, 4.0, 8.0, 3.5]
    assert spread_of(logs) == pytest.approx((np.median(logs), 1.4826 * np.median(np.abs(np.array(logs) - np.median(logs)))))
    assert spread_of([1.0, 1.0, 1.0])[1] == 0.3
    assert expected_largest(1) == 0.0


@pytest.mark.parametrize("count", [2, 10, 90, 1000])
def test_the_largest_of_so_many_draws_is_what_is_expected(count: int) -> None:
    draws = np.random.default_rng(0).standard_normal((4000, count)).max(1)
    assert expected_largest(count) == pytest.approx(draws.mean(), abs=0.06)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_the_smooth_maximum_lies_just_above_the_maximum(values: list[float]) -> None:
    assert max(values) - 1e-9 <= smooth_maximum(values) <= max(values) + math.log(len(values)) / 3 + 1e-9


def test_far_below_the_others_is_what_seldom_happens() -> None:
    """Of targets that differ as clean models' do, the smallest passes a quantile no more often than the quantile says."""
    draws = np.random.default_rng(0)
    largest = np.array([max(below_the_others(draws.normal(3.0, 0.4, 8).tolist(), 0.4)) for _ in range(2000)])
    for quantile in (1.0, 1.5, 2.0):
        expected = 1 - NormalDist().cdf(quantile)
        assert 0.2 * expected < np.mean(largest > quantile) < expected


def test_a_moderated_t_statistic_by_hand() -> None:
    values = [2.0, 3.0, 3.5, 2.5]
    others = np.array(values[1:])
    variance = (2 * others.var(ddof=1) + 8 * 0.3**2) / 10
    chance = float(student_t.sf((others.mean() - 2.0) / math.sqrt(variance * 4 / 3), 10))
    found = below_the_others(values, 0.3)
    assert found[0] == pytest.approx(-NormalDist().inv_cdf(1 - (1 - chance) ** 4))
    assert found[0] == max(found)
    assert math.isfinite(below_the_others([-1e6, 0.0, 0.0, 0.0], 0.3)[0])
    assert below_the_others([1.0, 1.0, 1.0, 1.0], 0.3) == pytest.approx([below_the_others([2.0] * 4, 0.3)[0]] * 4)
