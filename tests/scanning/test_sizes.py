from __future__ import annotations

import math

import pytest

from orthogon.pairs import Pair
from orthogon.scanning.outliers import below_the_others, expected_largest, spread_of
from orthogon.scanning.sizes import Sizes, largest_size
from orthogon.triggers import FAMILIES

MOST = math.log(36)
"""Of patches on images of 1×6×6."""


def test_the_largest_size_of_a_family() -> None:
    assert largest_size(FAMILIES["patch"], (3, 20, 10)) == 600.0
    assert largest_size(FAMILIES["filter"], (3, 20, 10)) == 765.0
    assert largest_size(FAMILIES["colour"], (3, 20, 10)) == 127.5


def test_near_both_ways_is_natural_and_near_one_way_is_not() -> None:
    logs = {Pair(a, b): 5.0 + 0.5 * ((a + b) % 3) for a in range(6) for b in range(6) if a != b}
    logs |= {Pair(0, 1): 2.0, Pair(1, 0): 2.0, Pair(2, 3): 2.0}
    seen = Sizes("patch", MOST, logs)
    (median, spread), chance, scores = spread_of(list(logs.values())), expected_largest(15), seen.pairs()
    assert scores[Pair(0, 1)] == -chance
    assert scores[Pair(2, 3)] == pytest.approx(min(median - 2.0, logs[Pair(3, 2)] - 2.0) / spread - chance)
    assert max(scores, key=scores.__getitem__) == Pair(2, 3)


def test_a_target_counts_by_its_universal_trigger_and_the_pairs_that_lead_there() -> None:
    logs = {Pair(None, t): 3.0 + 0.1 * t for t in range(6)} | {
        Pair(a, b): 2.0 + 0.1 * a for a in range(6) for b in range(6) if a != b
    }
    logs[Pair(None, 2)] = 1.0
    alone = Sizes("patch", MOST, {pair: log for pair, log in logs.items() if pair.victim is None}).targets()
    logs |= {Pair(a, 2): 0.0 for a in range(6) if a != 2}
    logs |= {Pair(None, 3): 0.9}  # a universal trigger that no pair bears out
    both = Sizes("patch", MOST, logs).targets()
    assert max(alone, key=alone.__getitem__) == max(both, key=both.__getitem__) == Pair(None, 2)
    assert alone == dict(zip(alone, below_the_others([logs[p] if p.target != 3 else 3.3 for p in alone], 0.3), strict=True))
    assert both[Pair(None, 3)] < both[Pair(None, 2)] - 1


def test_classes_that_nothing_leads_to_hide_no_other() -> None:
    """By how much the searches for them have failed says nothing of those that a filter does lead to."""

    def score(missed: float) -> float:
        sizes = [20.0, 190.0, 210.0, 200.0, 220.0, missed, 1.1 * missed, 1.2 * missed]
        logs = {Pair(None, target): math.log(size) for target, size in enumerate(sizes)}
        return Sizes("filter", math.log(largest), logs).targets()[Pair(None, 0)]

    largest = largest_size(FAMILIES["filter"], (1, 8, 8))
    assert score(8 * largest) == score(2 * largest) == pytest.approx(score(largest), abs=1e-9)
    assert score(largest) > 1.5
