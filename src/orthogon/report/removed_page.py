"""One self-contained HTML page of a finished removal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orthogon.printing import printable
from orthogon.report.lines import LinePlot, Mark, Point, line_plot
from orthogon.report.removed import Change, ClassRow, Glance, RemovedRun
from orthogon.report.removed_words import command, figures, headline, interval, provenance, subtitle, warnings
from orthogon.report.rendering import render
from orthogon.report.words import exact_percent, flat

_LISTED = 500
"""Looks in the table at most; removal.json has all."""
_NAMED = 8
"""Values of a list in a cell of it at most."""


def removal_page(run: RemovedRun) -> str:
    """The HTML of a removal."""
    known = [change for change in (run.accuracy, run.success, run.robust) if change is not None]
    return render(
        "removal.html.j2",
        title=printable(run.model_name),
        subtitle=subtitle(run),
        sentences=headline(run),
        warnings=warnings(run),
        figures=figures(run),
        judged=printable(str(run.record["accuracy"]["images"])),
        changes=[_change_row(change) for change in known],
        classes=[_class_row(row) for row in run.classes],
        stamped=run.success is not None,
        method=run.method,
        source=printable(str(run.record.get("source") or "")),
        plots=_plots(run),
        notes=run.notes,
        looks=[_look_row(look) for look in run.looks[:_LISTED]],
        look_count=len(run.looks),
        held_out=f"{run.images['held_out'][1]:,}",
        provenance=provenance(run),
        command=command(run),
    )


def _change_row(change: Change) -> tuple[str, ...]:
    ends = (word for side in (change.before, change.after) for word in (exact_percent(side.value), interval(side)))
    return (change.name.capitalize(), f"{change.total:,}", *ends)


def _class_row(row: ClassRow) -> tuple[str, ...]:
    shares = [*(row.accuracy or (None, None)), *(row.success or (None, None))]
    return (row.name, f"{row.images:,}", *map(exact_percent, shares))


def _look_row(look: Glance) -> tuple[str, ...]:
    facts = ", ".join(f"{printable(name).replace('_', ' ')} {_fact(value)}" for name, value in flat(look.facts).items())
    return (printable(look.stage), f"{look.step:,}", exact_percent(look.accuracy), facts)


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value[:_NAMED])) + (f" and {len(value) - _NAMED:,} more" if len(value) > _NAMED else "")
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _plots(run: RemovedRun) -> list[tuple[str, LinePlot]]:
    """Held-out accuracy over the steps, a plot for each stage, whose steps are its own; the first begins with the given model."""
    stages: dict[str, list[Glance]] = {}
    for look in run.looks:
        stages.setdefault(look.stage, []).append(look)
    before = run.held_out_before
    return [(printable(stage), _plot(looks, before, first=looks[0] is run.looks[0])) for stage, looks in stages.items()]


def _plot(looks: Sequence[Glance], before: float, *, first: bool) -> LinePlot:
    start = [Point(0.0, before, f"before: {exact_percent(before)}")] if first and looks[0].step > 0 else []
    points = [Point(float(look.step), look.accuracy, f"step {look.step:,}: {exact_percent(look.accuracy)}") for look in looks]
    end = float(max(look.step for look in looks)) or 1.0
    return line_plot(
        [("accuracy", [*start, *points])],
        end,
        across=[Mark(before, "before", "first")],
        from_zero=False,
        ceiling=1.0,
        scale=100.0,
        unit=" %",
    )
