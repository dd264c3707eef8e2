"""A hardened model's section of a model card: what hardening changed, then the distances that it has now."""

from __future__ import annotations

import math
from typing import Any

from orthogon.matrix import plain
from orthogon.report.card import SMALLEST, card_data, measured_card, safe, table
from orthogon.report.compare import Comparison
from orthogon.report.hardened import HardenedRun
from orthogon.report.hardened_words import accuracies, headline, held_out, method_name, missing_sentences, smallest
from orthogon.report.reading import MeasuredRun, pair_rows
from orthogon.report.words import counted, decimals, duration, exact_percent, number, without_folders

_HASHED = {"model": "the model before", "data": "the training images", "hardened": "the hardened model"}


def hardened_card(run: HardenedRun) -> tuple[str, dict[str, Any]]:
    """The section of a hardening run as (Markdown, JSON-like data)."""
    parts = ["## Hardening", " ".join(safe(sentence) for sentence in [*headline(run), *missing_sentences(run)])]
    parts += [_before_after(run), _facts(run)]
    if run.comparison is not None and run.comparison.common:
        parts += ["### Closest pairs before hardening", _closest(run.comparison)]
    text = "\n\n".join(parts) + "\n"
    return (text + "\n" + measured_card(run.after)[0] if run.after else text), _data(run)


def _data(run: HardenedRun) -> dict[str, Any]:
    """The card of the hardened model's distances, as for a measured run, and `hardening`."""
    record, comparison = run.record, run.comparison
    nothing = {"metric": "class distance", "classes": list(run.classes)}
    names = ("method", "family", "unit", "accuracy", "stopped", "step", "best_step", "seconds", "settings", "versions", "hashes")
    facts = {name: record[name] for name in (*names, "model", "data") if record.get(name) is not None}
    if comparison is not None:
        means = (comparison.mean_before, comparison.mean_after)
        facts |= {
            "increase": plain(comparison.increase),
            "pairs_in_both": comparison.common,
            "mean_before": plain(means[0]),
            "mean_after": plain(means[1]),
        }
    facts |= {"before": card_data(run.before)} if run.before is not None else {}
    return (card_data(run.after) if run.after is not None else nothing) | {"hardening": without_folders(facts)}


def _before_after(run: HardenedRun) -> str:
    lines = [[f"Accuracy on {held_out(run)}", *(exact_percent(value) for value in accuracies(run))]]
    if run.comparison is not None:
        lines = [*_distance_lines(run.comparison), *lines]
    return table(["", "Before", "After"], lines, numbers_from=1)


def _distance_lines(comparison: Comparison) -> list[list[str]]:
    means, sides = (comparison.mean_before, comparison.mean_after), (comparison.before, comparison.after)
    places = decimals(means)
    return [
        ["Mean distance, over the pairs that have one in both", *(number(mean, places) for mean in means)],
        ["Smallest distance", *(_smallest(side, places) for side in sides)],
        ["Pairs with a distance", *(_found(side) for side in sides)],
    ]


def _facts(run: HardenedRun) -> str:
    record = run.record
    comparison, versions = run.comparison, record.get("versions") or {}
    facts = []
    if comparison is not None and comparison.common:
        increase = f"{100 * comparison.increase:+.1f} % over {counted(comparison.common, 'pair')}"
        facts.append(["Average increase of the distance (MOTH, Eq. 8)", increase])
    facts += [["Method", method_name(run)], ["Time", f"{duration(run.total_seconds)}, {counted(run.last_step, 'step')}"]]
    named = (("Trigger family", "family"), ("Unit", "unit"), ("Training images", "data"))
    facts += [[name, without_folders(str(record[key]))] for name, key in named if record.get(key) is not None]
    facts += [["Hardened with", ", ".join(f"{name} {version}" for name, version in versions.items())]] if versions else []
    facts += [[f"Hash of {_HASHED.get(name, name)}", str(digest)] for name, digest in (record.get("hashes") or {}).items()]
    return table(["", ""], facts, numbers_from=2)


def _closest(comparison: Comparison) -> str:
    """The pairs that were closest before; a dash where they have no distance after."""
    first = [row for row in pair_rows(comparison.before.matrix) if row.found][:SMALLEST]
    after = {(row.victim, row.target): row.value for row in pair_rows(comparison.after.matrix) if row.found}
    classes, places = comparison.after.matrix.classes, decimals((comparison.mean_before, comparison.mean_after))
    lines = []
    for row in first:
        ends = (row.value, after.get((row.victim, row.target), math.nan))
        ratio = ends[1] / ends[0] if ends[0] > 0 else math.nan
        words = [number(end, places) for end in ends]
        lines.append([classes[row.victim], classes[row.target], *words, f"× {ratio:.2f}" if math.isfinite(ratio) else "–"])
    return table(["Victim", "Target", "Before", "After", "Ratio"], lines, numbers_from=2)


def _smallest(run: MeasuredRun, places: int) -> str:
    row = smallest(run)
    return number(math.nan if row is None else row.value, places)


def _found(run: MeasuredRun) -> str:
    rows = pair_rows(run.matrix)
    return f"{sum(row.found for row in rows):,} of {len(rows):,}"
