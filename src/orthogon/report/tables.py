"""The terminal's tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.style import Style
from rich.table import Table
from rich.text import Text

from orthogon.matrix import DistanceMatrix
from orthogon.printing import printable
from orthogon.report import colours, terminal
from orthogon.report.compare import Comparison, common_rows, only_words
from orthogon.report.heat import value_span
from orthogon.report.reading import PairRow, found_values, pair_rows, universal_rows, victim_name
from orthogon.report.words import MARKS, change, decimals, exact_percent, number, percent

WHOLE_MATRIX = 12
"""Up to so many classes the terminal shows the whole matrix."""


def distance_table(matrix: DistanceMatrix, smallest: int = 12) -> Table:
    """The matrix with coloured cells, or the smallest pairs where there are too many classes for a terminal."""
    if len(matrix.classes) > WHOLE_MATRIX:
        return pairs_table(matrix, smallest)
    table = Table(title=terminal.title(f"Class distances ({matrix.unit})"), padding=(0, 1), show_edge=False)
    table.add_column(Text("victim → target", style="dim"))
    for name in matrix.classes:
        table.add_column(_name(name, 9), justify="right", no_wrap=True)
    rows = {(row.victim, row.target): row for row in pair_rows(matrix)}
    values = found_values(matrix)
    span, places = value_span(values), decimals(values.flatten().tolist())
    for victim, name in enumerate(matrix.classes):
        table.add_row(_name(name), *(_cell(rows.get((victim, t)), span, places) for t in range(len(matrix.classes))))
    return table


def pairs_table(matrix: DistanceMatrix, count: int = 10) -> Table:
    """The smallest pairs; a caption tells how many there are and how many have no distance."""
    return _smallest_table("Closest pairs", "pairs", matrix, pair_rows(matrix), count)


def universal_table(matrix: DistanceMatrix, count: int = 10) -> Table:
    """The smallest universal triggers; a caption as for pairs."""
    return _smallest_table("Smallest universal triggers", "targets", matrix, universal_rows(matrix.facts), count)


def _smallest_table(heading: str, noun: str, matrix: DistanceMatrix, rows: Sequence[PairRow], count: int) -> Table:
    found = [row for row in rows if row.found]
    failed = f", {len(rows) - len(found):,} without a distance" if len(found) < len(rows) else ""
    told = terminal.caption(f"{min(count, len(found)):,} of {len(rows):,} {noun}{failed}")
    table = Table(title=terminal.title(f"{heading} ({matrix.unit})"), caption=told, show_edge=False)
    for name in ("victim", "target"):
        table.add_column(name, overflow="ellipsis", max_width=32)
    for name in ("distance", "spread", "success rate"):
        table.add_column(name, justify="right")
    places = decimals(row.value for row in found)
    for row in found[:count]:
        spread = f"± {number(row.spread, places)}" if math.isfinite(row.spread) else ""
        names = (_name(victim_name(matrix.classes, row)), _name(matrix.classes[row.target]))
        table.add_row(*names, Text(number(row.value, places), style="bold"), spread, percent(row.asr))
    return table


def comparison_table(comparison: Comparison, count: int = 10) -> Table:
    """Means, the average increase (MOTH, Eq. 8), and the pairs that gained least."""
    rows, classes = common_rows(comparison), comparison.after.matrix.classes
    places = decimals([comparison.mean_before, comparison.mean_after])
    heading = terminal.title(f"Before and after ({comparison.after.matrix.unit})")
    table = Table(title=heading, show_edge=False, show_footer=True)
    table.add_column("victim", footer="mean of each", overflow="ellipsis", max_width=32)
    table.add_column("target", overflow="ellipsis", max_width=32)
    table.add_column("before", footer=number(comparison.mean_before, places), justify="right")
    table.add_column("after", footer=number(comparison.mean_after, places), justify="right")
    table.add_column("change", footer=change(comparison.increase), justify="right")
    for old, new, ratio in rows[:count]:
        gain = Text(change(ratio - 1), style="red" if ratio < 1 else "green")
        ends = (number(old.value, places), number(new.value, places))
        table.add_row(_name(classes[new.victim]), _name(classes[new.target]), *ends, gain)
    alone = only_words(comparison)
    shown = f"{min(count, len(rows)):,} of {len(rows):,} pairs in both, least gain first{alone and f'; {alone}, in no mean'}"
    table.caption = terminal.caption("\n".join([shown, *comparison.warnings]))
    return table


def evaluation_table(
    classes: Sequence[str],
    per_class: Sequence[float | None],
    counts: Sequence[int],
    accuracy: float,
    robust: float | None = None,
) -> Table:
    """Accuracy per class and in all, as shares of 1 (None without images); robust is the accuracy under attack."""
    if not len(classes) == len(per_class) == len(counts):
        raise ValueError(f"{len(classes)} classes, but {len(per_class)} accuracies and {len(counts)} counts")
    table = Table(title="Accuracy", show_edge=False, show_footer=True)
    table.add_column("class", footer="all", overflow="ellipsis", max_width=40)
    table.add_column("images", footer=f"{sum(counts):,}", justify="right")
    table.add_column("accuracy", footer=exact_percent(accuracy), justify="right")
    for name, share, count in zip(classes, per_class, counts, strict=True):
        table.add_row(_name(name), f"{count:,}", exact_percent(share))
    if robust is not None:
        table.caption = terminal.caption(f"robust accuracy (all classes): {exact_percent(robust)}")
    return table


def _cell(row: PairRow | None, span: tuple[float, float], places: int) -> Text:
    if row is None:
        return Text("")
    if not row.found:
        return Text(MARKS.get(row.outcome, "none"), style="dim italic")
    background = colours.near_far(colours.level_of(row.value, *span))
    ink = colours.css_hex(colours.ink_on(background))
    return Text(number(row.value, places), style=Style(color=ink, bgcolor=colours.css_hex(background)))


def _name(name: str, longest: int = 32) -> Text:
    """As Text, so that rich reads no markup in it."""
    shown = printable(name)
    return Text(shown if len(shown) <= longest else shown[: longest - 1] + "…")
