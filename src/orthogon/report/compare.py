"""Two measured runs of one task side by side, such as a model before and after hardening."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from orthogon import runs
from orthogon.matrix import differences, improvement, plain
from orthogon.printing import printable
from orthogon.report.heat import distance_maps, ratio_map, value_span
from orthogon.report.plots import Plot, before_after_plot
from orthogon.report.reading import MeasuredRun, PairRow, found_values, pair_name, pair_rows, read_run, search_settings
from orthogon.report.rendering import render
from orthogon.report.summary import provenance
from orthogon.report.words import change, counted, decimals, number

MOST_LISTED = 2000
"""Rows of a table of pairs at most; the runs' files have the rest."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs and what changed between them."""

    before: MeasuredRun
    after: MeasuredRun
    ratio: Float[Tensor, "victims targets"]
    """After divided by before; NaN where either has no distance."""
    increase: float
    """Average relative increase over the pairs found in both (MOTH, Eq. 8): 1.0 is a doubling; NaN without any."""
    mean_before: float
    mean_after: float
    """Means over the pairs that have a distance in both, as the increase is; NaN without any."""
    only_before: tuple[tuple[int, int], ...]
    only_after: tuple[tuple[int, int], ...]
    """Pairs (victim, target) that one run alone has a distance for."""
    warnings: tuple[str, ...]
    """What makes the numbers less comparable than they look."""

    @property
    def common(self) -> int:
        """How many pairs have a distance in both runs."""
        return int(self.ratio.isfinite().sum())

    def to_json(self) -> dict[str, Any]:
        """The numbers, JSON-like; null where there is none."""
        return {
            "unit": self.after.matrix.unit,
            "increase": plain(self.increase),
            "mean_before": plain(self.mean_before),
            "mean_after": plain(self.mean_after),
            "pairs_in_both": self.common,
            "classes": list(self.after.matrix.classes),
            "ratio": [[plain(v) for v in row] for row in self.ratio.tolist()],
            "only_before": [list(pair) for pair in self.only_before],
            "only_after": [list(pair) for pair in self.only_after],
            "warnings": list(self.warnings),
        }


def compare(before: Path, after: Path) -> Comparison:
    """Compares the distances of two runs' folders; of a hardening run, those of the hardened model.

    Raises:
        ValueError: a folder is no finished run, or the runs differ in unit, trigger family or classes.
    """
    return compare_runs(read_run(before), read_run(after), before, after)


def compare_runs(old: MeasuredRun, new: MeasuredRun, before: Path, after: Path) -> Comparison:
    """Compares two runs that are read already; the paths name them in errors.

    Raises:
        ValueError: the runs differ in unit, trigger family or classes.
    """
    for name, first, second in differences(old.matrix, new.matrix):
        raise ValueError(f"the runs differ in {name}: {before} has {first!r}, {after} has {second!r}")
    old_values, new_values = found_values(old.matrix), found_values(new.matrix)
    ratio = new_values / old_values.where(old_values > 0, math.nan)
    both = ratio.isfinite()
    return Comparison(
        old,
        new,
        ratio,
        improvement(old.matrix, new.matrix) if bool(both.any()) else math.nan,
        float(old_values[both].mean()),
        float(new_values[both].mean()),
        _pairs(old_values.isfinite() & ~new_values.isfinite()),
        _pairs(new_values.isfinite() & ~old_values.isfinite()),
        _warnings(old, new),
    )


def write_comparison(comparison: Comparison, page: Path) -> Path:
    """Writes the comparison as one self-contained HTML page and returns its path.

    Raises:
        RunError: the page cannot be written.
    """
    runs.write_text(page, render("comparison.html.j2", **_content(comparison)))
    return page


def common_rows(comparison: Comparison) -> list[tuple[PairRow, PairRow, float]]:
    """Pairs found in both runs as (before, after, ratio), the smallest ratio first."""
    old = {(row.victim, row.target): row for row in pair_rows(comparison.before.matrix) if row.found}
    new = {(row.victim, row.target): row for row in pair_rows(comparison.after.matrix) if row.found}
    both = [(old[p], new[p], float(comparison.ratio[p])) for p in old if p in new and math.isfinite(comparison.ratio[p])]
    return sorted(both, key=lambda entry: entry[2])


def common_plot(comparison: Comparison) -> Plot | None:
    """Every pair found in both runs as two dots; None without any."""
    rows, classes = common_rows(comparison), comparison.after.matrix.classes
    places = decimals(v for b, a, _ in rows for v in (b.value, a.value))
    titles = [f"{pair_name(classes, a)}: {number(b.value, places)} before, {number(a.value, places)} after" for b, a, _ in rows]
    return before_after_plot([b.value for b, _, _ in rows], [a.value for _, a, _ in rows], titles) if rows else None


def common_table(comparison: Comparison) -> list[tuple[str, str, str, str, float]]:
    """Pairs found in both runs as (victim, target, before, after, ratio), the least gain first; `MOST_LISTED` at most."""
    rows, classes = common_rows(comparison), [printable(name) for name in comparison.after.matrix.classes]
    places = decimals(v for b, a, _ in rows for v in (b.value, a.value))
    return [
        (classes[a.victim], classes[a.target], number(b.value, places), number(a.value, places), ratio)
        for b, a, ratio in rows[:MOST_LISTED]
    ]


def increase_words(comparison: Comparison) -> str:
    """The result in one sentence."""
    if not comparison.common:
        return "No pair has a distance in both runs."
    rows = common_rows(comparison)
    grew = sum(ratio > 1 for _, _, ratio in rows)
    verb = "grew" if comparison.increase >= 0 else "shrank"
    return (
        f"Over the {counted(len(rows), 'pair')} that both runs found, the class distance {verb} by "
        f"{100 * abs(comparison.increase):.1f} % on average; {grew:,} grew and {len(rows) - grew:,} did not."
    )


def _content(comparison: Comparison) -> dict[str, Any]:
    old, new = comparison.before.matrix, comparison.after.matrix
    span = value_span(found_values(old), found_values(new))
    places = decimals(span)
    return {
        "before_name": printable(comparison.before.model_name),
        "after_name": printable(comparison.after.model_name),
        "sentence": increase_words(comparison),
        "figures": [
            ("Average increase", change(comparison.increase), "MOTH, equation 8"),
            (
                "Mean before",
                number(comparison.mean_before, places),
                comparison.before.size.patch(comparison.mean_before),
            ),
            ("Mean after", number(comparison.mean_after, places), comparison.after.size.patch(comparison.mean_after)),
            ("Pairs in both", f"{comparison.common:,}", only_words(comparison)),
        ],
        "warnings": comparison.warnings,
        "unit": printable(new.unit),
        "maps": distance_maps({"Before": old, "After": new}),
        "ratio": ratio_map(old, new, comparison.ratio),
        "plot": common_plot(comparison),
        "pairs": common_table(comparison),
        "pair_count": comparison.common,
        "provenance": [("Before", provenance(comparison.before)), ("After", provenance(comparison.after))],
    }


def _warnings(before: MeasuredRun, after: MeasuredRun) -> tuple[str, ...]:
    """Differences that do not forbid a comparison but should be read with it."""
    told = []
    for name in ("protocol", "data", "samples", "draws", "seed"):
        first, second = before.record.get(name), after.record.get(name)
        if first != second:
            told.append(f"The runs differ in {name}: {printable(str(first))} before, {printable(str(second))} after.")
    if before.matrix.protocol == after.matrix.protocol and (differing := _search_fields(before, after)):
        told.append(f"The runs differ in what their protocol stands for: {', '.join(differing)}.")
    return tuple(told)


def _search_fields(before: MeasuredRun, after: MeasuredRun) -> list[str]:
    """Fields in which the searches differ, as far as both runs tell."""
    first, second = search_settings(before.record), search_settings(after.record)
    if first is None or second is None:
        return []
    return [field.name.replace("_", " ") for field in fields(first) if getattr(first, field.name) != getattr(second, field.name)]


def only_words(comparison: Comparison) -> str:
    """How many pairs one run alone has a distance for; empty where there are none."""
    lost, gained = len(comparison.only_before), len(comparison.only_after)
    parts = [f"{lost:,} only before"] * bool(lost) + [f"{gained:,} only after"] * bool(gained)
    return ", ".join(parts)


def _pairs(chosen: Tensor) -> tuple[tuple[int, int], ...]:
    return tuple((int(v), int(t)) for v, t in chosen.nonzero().tolist())
