from __future__ import annotations

from typing import Any

import pytest

from orthogon.bench.false_positives import counts


def row(
    poisoned: bool,
    before: str | None,
    after: str | None = None,
    success: float | None = None,
    *,
    lost: float = 0.0,
    reason: str | None = None,
) -> dict[str, Any]:
    known = {"score_before": 2.5, "score_after": None, "success_before": 1.0 if poisoned else None, "reason": reason}
    return known | {
        "model": f"{poisoned} {before} {after} {success}",
        "poisoned": poisoned,
        "before": before,
        "after": after,
        "success_after": success,
        "accuracy_before": 0.9,
        "accuracy_after": None if after is None else 0.9 - lost,
    }


ROWS = [
    row(False, "clean"),
    row(False, "inconclusive"),
    row(False, None),
    row(False, None, reason="no network"),
    row(False, "backdoored", "clean", lost=0.03),
    row(False, "backdoored", "inconclusive", lost=0.01),
    row(False, "backdoored", "backdoored", lost=-0.01),
    row(False, "backdoored"),
    row(False, "backdoored", reason="the loss stayed NaN"),
    row(True, "clean"),
    row(True, "inconclusive"),
    row(True, "backdoored", "backdoored", 0.9, lost=0.1),
    row(True, "backdoored", "clean", 0.1, lost=0.2),
    row(True, "backdoored", "clean", 0.5, lost=0.3),
    row(True, "backdoored", "inconclusive", lost=0.4),
]


def test_counts_by_hand() -> None:
    seen = counts(ROWS)
    assert (seen["clean"], seen["poisoned"]) == (9, 6)
    assert seen["false_positives"] == {"before": 5, "after": 3}  # two that are not hardened are still flagged
    assert seen["true_positives"] == {"before": 4, "after": 4}  # the poisoned models stay as they are
    assert seen["inconclusive"] == {"before": 2, "after": 3}  # those of before are still there
    assert seen["poisoned_hardened_too"] == {"hardened": 4, "still_flagged": 1, "repaired": 1, "hidden": 1, "unknown": 1}
    assert seen["accuracy_lost"] == pytest.approx({"clean": 0.01, "poisoned": 0.25})
    assert (seen["waiting"], seen["not_scanned"], seen["failed"]) == (1, 1, 2)


def test_nothing_scanned_is_nothing_counted() -> None:
    seen = counts([row(False, None), row(True, None)])
    assert seen["false_positives"] == {"before": 0, "after": 0}
    assert seen["accuracy_lost"] == {"clean": None, "poisoned": None}
    assert seen["not_scanned"] == 2
