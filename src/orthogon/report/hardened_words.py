"""A hardening run in a few sentences and numbers, for somebody who has to decide whether to ship its model."""

from __future__ import annotations

import math
from typing import Any

from orthogon.printing import printable
from orthogon.report.hardened import HardenedRun
from orthogon.report.reading import MeasuredRun, PairRow, failures, pair_name, pair_rows
from orthogon.report.summary import shown_groups
from orthogon.report.words import OUTCOMES, change, counted, decimals, duration, exact_percent, number, or_nan, percentage_points

_METHODS = {
    "moth": "MOTH",
    "moth-filter": "MOTH with colour filters",
    "moth-colour": "MOTH with colour maps",
    "moth-additive": "MOTH with additive triggers",
    "deck": "DECK",
}
_STOPPED = {
    "minutes": "its time was used up",
    "steps": "all its steps were done",
    "accuracy": "the held-out accuracy had fallen to its bound",
}


def method_name(run: HardenedRun) -> str:
    """As the papers write it where they do."""
    method = str(run.record.get("method") or "an unnamed method")
    return _METHODS.get(method, printable(method))


def headline(run: HardenedRun) -> list[str]:
    """The verdict in plain sentences: distances, closest pairs, accuracy; then the time, and what has no distance."""
    sentences = [*distance_sentences(run), accuracy_sentence(run), time_sentence(run)]
    return [sentence for sentence in sentences if sentence]


def distance_sentences(run: HardenedRun) -> list[str]:
    """How far the distances moved on average and at the closest pair; or that nobody measured it."""
    if run.comparison is None:
        return [_unmeasured_sentence(run)]
    if not run.comparison.common:
        return ["No pair of classes has a distance both before and after hardening."]
    return [_increase_sentence(run), _closest_sentence(run.comparison.before, run.comparison.after)]


def accuracy_sentence(run: HardenedRun) -> str:
    """From what to what the accuracy went, and whether that is within the bound that was asked for."""
    before, after = accuracies(run)
    if not (math.isfinite(before) and math.isfinite(after)):
        return ""
    bound = run.record["accuracy"].get("bound")
    kept = ""
    if isinstance(bound, int | float):
        within = "within" if before - after <= bound + 1e-9 else "beyond"
        kept = f", {within} the bound of {percentage_points(float(bound))}"
    return f"Accuracy on {held_out(run)} went from {exact_percent(before)} to {exact_percent(after)}{kept}."


def time_sentence(run: HardenedRun) -> str:
    """How long it took, why it stopped, and which of its models is the hardened one."""
    stopped, best = run.record.get("stopped"), run.record.get("best_step")
    why = f"; it stopped because {_STOPPED.get(stopped, printable(stopped))}" if isinstance(stopped, str) else ""
    kept = f" The hardened model is that of step {best:,}, the best of those checked." if isinstance(best, int) else ""
    kept = " No later model could be kept: the one written is the model as it was." if best == 0 else kept
    return f"Hardening took {duration(run.total_seconds)} and {counted(run.last_step, 'step')}{why}.{kept}"


def missing_sentences(run: HardenedRun) -> list[str]:
    """Pairs that have a distance on one side only, or on none: they count in no average."""
    if run.comparison is None:
        return []
    lost, gained = run.comparison.only_before, run.comparison.only_after
    told = []
    if lost:
        outcomes = {run.comparison.after.matrix.outcomes[v][t] or "not measured" for v, t in lost}
        why = "; ".join(f"{printable(o)}: {OUTCOMES[o]}" if o in OUTCOMES else printable(o) for o in sorted(outcomes))
        told.append(
            f"{counted(len(lost), 'pair')} had a distance before and {'has' if len(lost) == 1 else 'have'} none after ({why}). "
            "That no trigger was found is no proof that there is none: such pairs count in no average."
        )
    if gained:
        told.append(
            f"{counted(len(gained), 'pair')} had no distance before and {'has' if len(gained) == 1 else 'have'} one after."
        )
    return told


def subtitle(run: HardenedRun) -> str:
    """Method, family, number of classes and when."""
    family, started = run.record.get("family"), run.started.get("started")
    parts = [f"hardened with {method_name(run)}"]
    parts += [f"{printable(family)} triggers"] if isinstance(family, str) else []
    parts += [counted(len(run.classes), "class")]
    parts += [printable(started[:16].replace("T", " "))] if isinstance(started, str) else []
    return " · ".join(parts)


def figures(run: HardenedRun) -> list[tuple[str, str, str]]:
    """The few numbers that matter, as (name, number, what it means)."""
    shown = _distance_figures(run) if run.comparison is not None else []
    before, after = accuracies(run)
    if math.isfinite(after):
        shown.append(("Accuracy", exact_percent(after), f"{exact_percent(before)} before"))
    return [*shown, ("Time", duration(run.total_seconds), counted(run.last_step, "step"))]


def provenance(run: HardenedRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was hardened and measured with what: titled groups of (name, value)."""
    record = run.record
    names = ("method", "family", "unit", "stopped", "step", "best_step", "picks_total", "data")
    groups: list[tuple[str, Any]] = [
        ("Hardening", {name.replace("_", " "): record[name] for name in names if record.get(name) is not None}),
        ("Encoder and decoder of the triggers that harden", record.get("hardened_by")),
        ("Accuracy", record.get("accuracy")),
        ("Distances before", _measured(run.before)),
        ("Distances after", _measured(run.after)),
        ("Model", record.get("model")),
        ("Hashes", record.get("hashes")),
        ("Versions", record.get("versions") or run.started.get("versions")),
        ("Settings", record.get("settings") or run.started.get("settings")),
    ]
    return shown_groups(groups)


def accuracies(run: HardenedRun) -> tuple[float, float]:
    """On held-out images before and after, 0 to 1; NaN where unknown."""
    known = run.record.get("accuracy") or {}
    before, after = known.get("before"), known.get("after")
    return _known(before), _known(after)


def held_out(run: HardenedRun) -> str:
    """ "2,000 held-out images"."""
    images = (run.record.get("accuracy") or {}).get("images")
    return f"{images:,} held-out images" if isinstance(images, int) else "held-out images"


def _known(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _measured(run: MeasuredRun | None) -> dict[str, Any] | None:
    if run is None:
        return None
    rows = pair_rows(run.matrix)
    facts = {"protocol": run.matrix.protocol, "pairs": f"{len(rows):,}"}
    facts |= {f"without a distance: {outcome}": count for outcome, count in failures(rows).items()}
    names = ("samples", "draws", "seed", "seconds", "accuracy", "data")
    facts |= {name: run.record[name] for name in names if run.record.get(name) is not None}
    by = run.record.get("measured_by")
    return {"family": run.matrix.family, **facts, "measured by": by} if by else facts


def _unmeasured_sentence(run: HardenedRun) -> str:
    missing = " and ".join(name for name, side in (("before", run.before), ("after", run.after)) if side is None)
    return (
        f"This run has no distances from {missing} hardening, so that nothing here says how far the classes moved apart: "
        "what training saw of its own triggers is no measurement."
    )


def _increase_sentence(run: HardenedRun) -> str:
    comparison = run.comparison
    assert comparison is not None
    size = comparison.after.size
    grown = f"{100 * abs(comparison.increase):.1f} % {'larger' if comparison.increase >= 0 else 'smaller'}"
    means = (comparison.mean_before, comparison.mean_after)
    before, after = (number(mean, decimals(means)) for mean in means)
    patches = size.from_to(*means)
    patches = patches and f", {patches}"
    return (
        f"Hardening with {method_name(run)} made the class distances {grown} on average over "
        f"{counted(comparison.common, 'pair')} (MOTH, Eq. 8): their mean went from {before} to {after}{patches}."
    )


def _closest_sentence(before: MeasuredRun, after: MeasuredRun) -> str:
    first, last = smallest(before), smallest(after)
    if first is None or last is None:
        return ""
    places = decimals([first.value, last.value])
    start, end = (number(row.value, places) for row in (first, last))
    old, new = (pair_name(run.matrix.classes, row) for run, row in ((before, first), (after, last)))
    if (first.victim, first.target) == (last.victim, last.target):
        return f"The closest pair, {old}, went from {start} to {end} and is still the closest."
    return f"The closest pair was {old} at {start}; now it is {new} at {end}."


def smallest(run: MeasuredRun) -> PairRow | None:
    """The closest pair; None where no pair has a distance."""
    return next((row for row in pair_rows(run.matrix) if row.found), None)


def _distance_figures(run: HardenedRun) -> list[tuple[str, str, str]]:
    comparison = run.comparison
    assert comparison is not None
    first, last = (side and side.value for side in (smallest(comparison.before), smallest(comparison.after)))
    means = (comparison.mean_before, comparison.mean_after)
    places = decimals(means)
    return [
        ("Average increase", change(comparison.increase), f"MOTH, Eq. 8, {counted(comparison.common, 'pair')}"),
        ("Mean distance", number(means[1], places), f"{number(means[0], places)} before"),
        ("Smallest distance", number(or_nan(last), places), f"{number(or_nan(first), places)} before"),
    ]
