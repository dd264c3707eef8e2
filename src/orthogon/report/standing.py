"""Where the pair that a backdoor was planted in stands among all distances: counted from the results, never assumed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orthogon.printing import printable
from orthogon.report.reading import MeasuredRun, PairRow, pair_name, pair_rows
from orthogon.report.words import OUTCOMES, decimals, number, ordinal, percent


@dataclass(frozen=True)
class Standing:
    """A pair's distance among all that were found."""

    row: PairRow
    rank: int | None
    """1 for the smallest; None where the pair has no distance."""
    count: int
    """Pairs with a distance."""
    median: float
    """Of these pairs' distances; NaN without any."""


def standing(rows: Sequence[PairRow], row: PairRow) -> Standing:
    """Where one of the rows stands among them."""
    values = [other.value for other in rows if other.found]
    rank = 1 + sum(value < row.value for value in values) if row.found else None
    return Standing(row, rank, len(values), statistics.median(values) if values else math.nan)


def planted_standing(run: MeasuredRun) -> Standing | None:
    """Of the pair that the card of the run's model says was planted; None where it tells of none, or it was not measured."""
    planted, rows = run.record.get("planted"), pair_rows(run.matrix)
    if not isinstance(planted, Mapping):
        return None
    asked = planted.get("victim"), planted.get("target")
    return next((standing(rows, row) for row in rows if (row.victim, row.target) == asked), None)


def planted_sentences(run: MeasuredRun) -> list[str]:
    """What was planted, and where its pair stands; none where `planted_standing` is None."""
    found = planted_standing(run)
    if found is None:
        return []
    attack = printable(str(run.record["planted"].get("attack")))
    told = f"The card of this model says that a backdoor ({attack}) was planted in {pair_name(run.matrix.classes, found.row)}."
    return [told, standing_sentence(found)]


def standing_sentence(found: Standing) -> str:
    """ "Its distance of 3.8 is the smallest of 30, 88 % below their median of 30.9."."""
    if found.rank is None:
        return f"That pair has no distance: {OUTCOMES.get(found.row.outcome, printable(found.row.outcome))}."
    place = "the smallest" if found.rank == 1 else f"the {ordinal(found.rank)} smallest"
    return f"Its distance of {_shown(found.row.value)} is {place} of {found.count:,}, {_beside(found)}."


def standing_facts(run: MeasuredRun, found: Standing) -> dict[str, Any]:
    """The same for machines."""
    names = run.matrix.classes
    return {
        "victim": names[found.row.victim],
        "target": names[found.row.target],
        "distance": found.row.value if found.rank is not None else None,
        "rank": found.rank,
        "of": found.count,
        "median": found.median if math.isfinite(found.median) else None,
    }


def _beside(found: Standing) -> str:
    """ "88 % below their median of 30.9"; below 0 in distance nothing lies, so the share is of the median."""
    below = 1 - found.row.value / found.median if found.median > 0 else 0.0
    median = f"their median of {_shown(found.median)}"
    return f"{percent(abs(below))} {'below' if below > 0 else 'above'} {median}" if abs(below) >= 0.005 else f"at {median}"


def _shown(value: float) -> str:
    return number(value, decimals([value]))
