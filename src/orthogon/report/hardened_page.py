"""One self-contained HTML page of a finished hardening run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orthogon.printing import printable
from orthogon.report.compare import Comparison, common_plot, common_table
from orthogon.report.hardened import HardenedRun, Pick
from orthogon.report.hardened_words import accuracies, figures, headline, missing_sentences, provenance, subtitle
from orthogon.report.heat import HeatMap, count_map, distance_maps, ratio_map
from orthogon.report.lines import LinePlot, Mark, Point, line_plot
from orthogon.report.page import Picture, drawing_words, drawn
from orthogon.report.reading import MeasuredRun, PairRow, pair_name, pair_rows, trigger_pictures
from orthogon.report.rendering import render
from orthogon.report.words import command_line, counted, decimals, duration, exact_percent, number, ordinal, percent

SMALLEST = 6
"""Closest pairs before, and closest after, whose triggers are drawn; as many lines has the plot of pairs."""
_LISTED_CHECKS = 500


@dataclass(frozen=True)
class Side:
    """One pair before or after hardening, in words and pictures."""

    name: str
    facts: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class TwoSided:
    """A pair before and after hardening."""

    victim: str
    target: str
    change: str
    sides: tuple[Side, ...]


def hardening_page(run: HardenedRun) -> str:
    """The HTML of a hardening run."""
    return render("hardening.html.j2", **_content(run))


def _content(run: HardenedRun) -> dict[str, Any]:
    sentences, comparison = headline(run), run.comparison
    known = [(name, side) for name, side in (("Before", run.before), ("After", run.after)) if side is not None]
    best, bound = run.record.get("best_step"), _bound(run)
    cards = _cards(comparison) if comparison else []
    return {
        "title": printable(run.model_name),
        "subtitle": subtitle(run),
        "sentences": sentences,
        "warnings": [*missing_sentences(run), *(comparison.warnings if comparison else ()), *_restart_words(run)],
        "figures": figures(run),
        "unit": printable(known[0][1].matrix.unit if known else str(run.record.get("unit") or "")),
        "pixel_words": known[0][1].size.explanation if known else "",
        "maps": distance_maps({name: side.matrix for name, side in known}),
        "ratio": ratio_map(comparison.before.matrix, comparison.after.matrix, comparison.ratio) if comparison else None,
        "plot": common_plot(comparison) if comparison else None,
        "pairs": common_table(comparison) if comparison else [],
        "pair_count": comparison.common if comparison else 0,
        "cards": cards,
        "drawing_words": drawing_words(picture for card in cards for side in card.sides for picture in side.pictures),
        "accuracy_plot": _accuracy_plot(run, best, bound),
        "distance_plot": _distance_plot(run, best),
        "pair_plot": _pair_plot(run),
        "checks": [_check_row(run, number) for number in range(min(len(run.checks), _LISTED_CHECKS))],
        "check_count": len(run.checks),
        "kept": best if isinstance(best, int) else None,
        "bound": exact_percent(bound),
        "picks": _pick_map(run),
        "universal": _universal(run),
        "searches": _search_words(run),
        "times": _times(run),
        "total": duration(run.total_seconds),
        "measuring": _measuring_words(run),
        "restarted": bool(run.restarts),
        "provenance": provenance(run),
        "command": command_line(run.started),
    }


def _cards(comparison: Comparison) -> list[TwoSided]:
    """The pairs that are among the closest before or after, the closest after first."""
    runs = (comparison.before, comparison.after)
    ranked = [[row for row in pair_rows(run.matrix) if row.found] for run in runs]
    ranks = [{(row.victim, row.target): k + 1 for k, row in enumerate(rows)} for rows in ranked]
    chosen = list(dict.fromkeys((row.victim, row.target) for rows in reversed(ranked) for row in rows[:SMALLEST]))
    chosen.sort(key=lambda pair: ranks[1].get(pair, math.inf))
    rows = [{(row.victim, row.target): row for row in pair_rows(run.matrix)} for run in runs]
    pictures = [trigger_pictures(run.triggers, chosen) for run in runs]
    classes = [printable(name) for name in comparison.after.matrix.classes]
    places = decimals([comparison.mean_before, comparison.mean_after])
    cards = []
    for victim, target in chosen:
        pair, names = (victim, target), (classes[victim], classes[target])
        sides = [
            Side(
                name,
                _side_words(run, rows[k].get(pair), ranks[k].get(pair), len(ranked[k]), places),
                drawn(pictures[k][pair], *names) if pair in pictures[k] and pair in ranks[k] else (),
            )
            for k, (name, run) in enumerate(zip(("before", "after"), runs, strict=True))
        ]
        ratio = float(comparison.ratio[victim, target])
        cards.append(TwoSided(*names, f"× {ratio:.2f}" if math.isfinite(ratio) else "", tuple(sides)))
    return cards


def _side_words(run: MeasuredRun, row: PairRow | None, rank: int | None, of: int, places: int) -> str:
    if row is None or rank is None:
        return f"no distance: {printable(row.outcome if row else 'not measured')}"
    size = run.size.patch(row.value)
    turned = f"turns {percent(row.asr)}" if math.isfinite(row.asr) else ""
    place = "closest of all" if rank == 1 else f"{ordinal(rank)} closest of {of:,}"
    return " · ".join(part for part in (number(row.value, places), size, turned, place) if part)


def _bound(run: HardenedRun) -> float:
    """The lowest accuracy that may be kept; NaN where none was set."""
    bound = (run.record.get("accuracy") or {}).get("bound")
    return accuracies(run)[0] - float(bound) if isinstance(bound, int | float) else math.nan


def _accuracy_plot(run: HardenedRun, best: Any, bound: float) -> LinePlot | None:
    before = accuracies(run)[0]
    across = [Mark(before, "before", "first")] * math.isfinite(before) + [Mark(bound, "bound", "limit")] * math.isfinite(bound)
    points = [
        Point(float(c.step), c.accuracy, f"step {c.step:,}: {exact_percent(c.accuracy)}", _dot(c.step, c.kept, best))
        for c in run.checks
        if math.isfinite(c.accuracy)
    ]
    if not points:
        return None
    marks = _marks(run, best)
    return line_plot(
        [("accuracy", points)], float(run.last_step), across=across, down=marks, from_zero=False, scale=100.0, unit=" %"
    )


def _distance_plot(run: HardenedRun, best: Any) -> LinePlot | None:
    points = [
        Point(float(c.step), c.distance, f"step {c.step:,}: {number(c.distance)}", _dot(c.step, c.kept, best))
        for c in run.checks
        if math.isfinite(c.distance)
    ]
    return line_plot([("mean trigger", points)], float(run.last_step), down=_marks(run, best)) if points else None


def _dot(step: int, kept: bool, best: Any) -> str:
    return "best" if step == best else "kept" if kept else "open"


def _marks(run: HardenedRun, best: Any) -> list[Mark]:
    restarts = [Mark(float(step), "restart", "restart") for step, _ in run.restarts]
    return [*restarts, Mark(float(best), "hardened model", "best")] if isinstance(best, int) else restarts


def _pair_plot(run: HardenedRun) -> LinePlot | None:
    """The trigger sizes that training saw of the closest pairs (MOTH, Fig. 8)."""
    seen: dict[tuple[int, int], list[Pick]] = defaultdict(list)
    for pick in run.picks:
        if pick.victim is not None and math.isfinite(pick.size):
            seen[pick.victim, pick.target].append(pick)
    order = [(row.victim, row.target) for row in pair_rows(run.before.matrix) if row.found] if run.before else []
    order = order or sorted(seen, key=lambda pair: seen[pair][0].size)
    chosen = [pair for pair in order if len(seen.get(pair, ())) > 1][:SMALLEST]
    series = [(_arrow(run, *pair), [_point(run, pick) for pick in seen[pair]]) for pair in chosen]
    return line_plot(series, float(run.last_step)) if series else None


def _point(run: HardenedRun, pick: Pick) -> Point:
    assert pick.victim is not None
    return Point(float(pick.step), pick.size, f"{_arrow(run, pick.victim, pick.target)}, step {pick.step:,}: {number(pick.size)}")


def _arrow(run: HardenedRun, victim: int, target: int) -> str:
    return pair_name(run.classes, PairRow(victim, target, math.nan, math.nan, math.nan, "found"))


def _check_row(run: HardenedRun, place: int) -> tuple[str, ...]:
    check = run.checks[place]
    numbers = (exact_percent(check.accuracy), number(check.distance), number(check.loss, 3))
    kept = "hardened model" if check.step == run.record.get("best_step") else "better than before" if check.kept else ""
    return f"{check.step:,}", duration(check.seconds) if math.isfinite(check.seconds) else "–", *numbers, kept


def _pick_map(run: HardenedRun) -> HeatMap | None:
    """How often the trigger of each pair was searched; None where every trigger was universal."""
    pairs: dict[tuple[int, int], list[Pick]] = defaultdict(list)
    for pick in run.picks:
        if pick.victim is not None:
            pairs[pick.victim, pick.target].append(pick)
    count = len(run.classes)
    counts = {(v, t): len(pairs.get((v, t), ())) for v in range(count) for t in range(count) if v != t}
    titles = {pair: _pick_words(pairs.get(pair, ())) for pair in counts}
    return count_map(run.classes, counts, titles) if pairs else None


def _pick_words(picks: Sequence[Pick]) -> str:
    if not picks:
        return "never picked"
    found = [pick.size for pick in picks if math.isfinite(pick.size)]
    last = f", first {number(found[0])}, last {number(found[-1])}" if found else ""
    return f"picked {len(picks):,} ×, {len(found):,} found{last}"


def _universal(run: HardenedRun) -> list[tuple[str, int, float]]:
    """Targets of universal triggers as (class, how often, share of the most frequent), the most frequent first."""
    counts = Counter(pick.target for pick in run.picks if pick.victim is None).most_common()
    return [(printable(run.classes[target]), count, count / counts[0][1]) for target, count in counts]


def _search_words(run: HardenedRun) -> str:
    universal = sum(pick.victim is None for pick in run.picks)
    missed = sum(not math.isfinite(pick.size) for pick in run.picks)
    parts = [f"{counted(len(run.picks) - universal, 'trigger')} of pairs"] * (len(run.picks) > universal)
    parts += [f"{counted(universal, 'universal trigger')} (from every class to one)"] * bool(universal)
    none = f"; {missed:,} of these searches found none" if missed else ""
    return f"Training searched {' and '.join(parts)}{none}." if parts else "Training searched no triggers."


def _times(run: HardenedRun) -> list[tuple[str, str, float]]:
    """Parts of the time as (name, duration, share of the total), the longest first."""
    total = max(run.total_seconds, sum(run.seconds.values()), 1e-9)
    parts = sorted(run.seconds.items(), key=lambda part: -part[1])
    rest = total - sum(run.seconds.values())
    shown = [(printable(name), duration(spent), spent / total) for name, spent in parts]
    return [*shown, ("everything else", duration(rest), rest / total)] if shown and rest > 0.01 * total else shown


def _measuring_words(run: HardenedRun) -> str:
    sides = (("before", run.before), ("after", run.after))
    known = [
        (name, side.record["seconds"]) for name, side in sides if side and isinstance(side.record.get("seconds"), int | float)
    ]
    return ", ".join(f"{duration(float(spent))} {name}" for name, spent in known)


def _restart_words(run: HardenedRun) -> list[str]:
    return [
        f"Training began again from its last good state at step {step:,}: {printable(reason)}." for step, reason in run.restarts
    ]
