"""False alarms of a scanner before and after the models that it flags are hardened (MOTH, section VI-A; DECK, section V-D).

The papers harden the clean models that a scanner calls backdoored, put them back among the others, and scan again: what is
still called backdoored are the false positives after. The poisoned models stay as they are, so that no detection can be lost.
A user does not know which of the flagged models are clean, so the poisoned ones are hardened too and told apart: one that is
no longer flagged is repaired where its trigger has stopped working, and hidden, which is worse than before, where it still works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TITLE = "False alarms before and after hardening"
FLAGGED = "backdoored"
"""The verdict that counts as an alarm; an inconclusive one does not, and is counted apart."""
WORKS = 0.5
"""Attack success rate from which a trigger still works."""


@dataclass(frozen=True)
class Published:
    """What a paper reports of this on TrojAI's round 4."""

    source: str
    before: int
    after: int
    accuracy_lost: float
    """Mean over the hardened models, points."""


PUBLISHED: Mapping[str, Published] = {
    "moth": Published("MOTH, section VI-A: TrojAI round 4, a top performer's scanner, no true positive lost", 32, 6, 0.13),
    "deck": Published("DECK, section V-D: TrojAI round 4, a top performer's scanner, no true positive lost", 14, 0, 0.10),
}
"""By method of hardening."""


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table's numbers.

    Args:
        rows: of each model "poisoned", the verdict "before" (None: not scanned yet, or the scan failed), "reason" (why a scan or
            the hardening failed; None: nothing failed), and, where it was flagged and hardened, the verdict "after",
            "success_before" and "success_after" (attack success rates, 0 to 1; None where nobody knows its trigger),
            "accuracy_before" and "accuracy_after".

    Returns:
        Plain numbers. "inconclusive" is of all models, the poisoned ones as they came, as in "true_positives". "waiting" are
        flagged models that are not hardened and scanned again yet, "not_scanned" those without a verdict yet, "failed" those with
        a reason, which are in neither of the two; a flagged model without a second verdict counts as still flagged.
    """
    clean = [row for row in rows if row["poisoned"] is False]
    poisoned = [row for row in rows if row["poisoned"]]
    alarms, detected = _flagged(clean), _flagged(poisoned)
    gone = [row for row in detected if row["after"] not in (None, FLAGGED)]
    return {
        "clean": len(clean),
        "poisoned": len(poisoned),
        "false_positives": {"before": len(alarms), "after": len(_still(alarms))},
        # The poisoned models are not changed, so the scan that was made is the scan after.
        "true_positives": {"before": len(detected), "after": len(detected)},
        "inconclusive": {
            "before": sum(row["before"] == "inconclusive" for row in rows),
            "after": sum(row["before"] == "inconclusive" for row in rows) + sum(row["after"] == "inconclusive" for row in alarms),
        },
        "poisoned_hardened_too": {
            "hardened": sum(row["after"] is not None for row in detected),
            "still_flagged": len(_still(detected)),
            "repaired": _count(gone, lambda success: success < WORKS),
            "hidden": _count(gone, lambda success: success >= WORKS),
            "unknown": sum(row["success_after"] is None for row in gone),
        },
        # Apart, since the published figure is of the clean models alone.
        "accuracy_lost": {"clean": _lost(alarms), "poisoned": _lost(detected)},
        "waiting": sum(row["after"] is None and row["reason"] is None for row in (*alarms, *detected)),
        "not_scanned": sum(row["before"] is None and row["reason"] is None for row in rows),
        "failed": sum(row["reason"] is not None for row in rows),
    }


def _flagged(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["before"] == FLAGGED]


def _still(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["after"] in (None, FLAGGED)]


def _lost(rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Mean share of the accuracy that hardening cost; None where nothing was hardened."""
    lost = [row["accuracy_before"] - row["accuracy_after"] for row in rows if row["after"] is not None]
    return sum(lost) / len(lost) if lost else None


def _count(rows: Iterable[Mapping[str, Any]], fits: Any) -> int:
    return sum(row["success_after"] is not None and fits(row["success_after"]) for row in rows)
