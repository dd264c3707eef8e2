"""A model card's section on class distances, in Markdown and JSON: the papers ask publishers to publish them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from orthogon.matrix import plain
from orthogon.printing import printable
from orthogon.report.reading import MeasuredRun, PairRow, failures, found_values, pair_rows, universal_rows, victim_name
from orthogon.report.summary import headline, trigger_figures
from orthogon.report.words import decimals, exact_percent, number, percent, without_folders

SMALLEST = 5
"""Pairs named in a card."""
WHOLE_MATRIX = 20
"""Up to so many classes the Markdown holds the whole matrix; the JSON always does."""


def measured_card(run: MeasuredRun) -> tuple[str, dict[str, Any]]:
    """The section of a measured run as (Markdown, JSON-like data)."""
    return _markdown(run), card_data(run)


def card_data(run: MeasuredRun) -> dict[str, Any]:
    """The numbers of a card, JSON-like; null where there is none."""
    rows, universal = pair_rows(run.matrix), universal_rows(run.record)
    found = [row for row in rows if row.found]
    names = ("model", "data", "accuracy", "seconds", "versions", "hashes")
    return {
        "metric": "class distance",
        "unit": run.matrix.unit,
        "protocol": run.matrix.protocol,
        "family": run.matrix.family,
        "mean": run.matrix.mean() if found else None,
        "pairs": {"measured": len(rows), "found": len(found), "failed": failures(rows)},
        "smallest": [_pair(run, row) for row in found[:SMALLEST]],
        **({"universal": [_universal(run, row) for row in universal]} if universal else {}),
        "classes": list(run.matrix.classes),
        "values": [[v if math.isfinite(v) else None for v in row] for row in found_values(run.matrix).tolist()],
        **{name: without_folders(run.record[name]) for name in names if run.record.get(name) is not None},
    }


def _pair(run: MeasuredRun, row: PairRow) -> dict[str, Any]:
    classes = run.matrix.classes
    return {"victim": classes[row.victim], "target": classes[row.target], "distance": row.value, "asr": plain(row.asr)}


def _universal(run: MeasuredRun, row: PairRow) -> dict[str, Any]:
    size = row.value if row.found else math.nan
    return {"target": run.matrix.classes[row.target], "size": plain(size), "asr": plain(row.asr), "outcome": row.outcome}


def _markdown(run: MeasuredRun) -> str:
    rows, universal = pair_rows(run.matrix), universal_rows(run.record)
    parts = ["## Class distances", " ".join(safe(sentence) for sentence in headline(run)), _facts(run)]
    if rows:
        parts += ["### Closest pairs", _smallest(run, rows)]
    if rows and len(run.matrix.classes) <= WHOLE_MATRIX:
        parts += [
            "### All pairs",
            "Rows are victim classes, columns targets; – is a pair without a distance.",
            _matrix(run),
        ]
    if universal:
        parts += ["### Smallest universal triggers", _smallest(run, universal)]
    return "\n\n".join([*parts, "### How to read this", _reading(run)]) + "\n"


def _facts(run: MeasuredRun) -> str:
    facts = [(name, f"{value} ({note})" if note else value) for name, value, note in trigger_figures(run)]
    facts += [
        ("Unit", run.matrix.unit),
        ("Protocol", run.matrix.protocol),
        ("Trigger family", run.matrix.family),
        ("Samples", without_folders(str(run.record.get("data") or "not recorded"))),
    ]
    accuracy, versions = run.record.get("accuracy"), run.record.get("versions") or {}
    facts += [("Accuracy on clean images", exact_percent(accuracy))] if isinstance(accuracy, int | float) else []
    facts += [("Measured with", ", ".join(f"{name} {version}" for name, version in versions.items()))] if versions else []
    facts += [(f"Hash of {name}", str(digest)) for name, digest in (run.record.get("hashes") or {}).items()]
    return table(["", ""], [[name, value] for name, value in facts], numbers_from=2)


def _smallest(run: MeasuredRun, rows: Sequence[PairRow]) -> str:
    found = [row for row in rows if row.found][:SMALLEST]
    places, classes = decimals(row.value for row in found), run.matrix.classes
    lines = [
        [
            victim_name(classes, row),
            classes[row.target],
            number(row.value, places),
            run.size.patch(row.value) or "–",
            percent(row.asr),
        ]
        for row in found
    ]
    return table(["Victim", "Target", "Distance", "Patch", "Success rate"], lines, numbers_from=2)


def _matrix(run: MeasuredRun) -> str:
    values = found_values(run.matrix)
    places, classes = decimals(values.flatten().tolist()), run.matrix.classes
    lines = [
        [name, *("" if v == t else number(float(values[v, t]), places) for t in range(len(classes)))]
        for v, name in enumerate(classes)
    ]
    return table(["", *classes], lines, numbers_from=1)


def _reading(run: MeasuredRun) -> str:
    explanation = f" {run.size.explanation}" if run.size.explanation else ""
    universal = " A universal trigger turns the samples of all other classes at once." if run.record.get("universal") else ""
    return (
        "The distance from a victim class to a target class is the size of the smallest trigger found that turns the "
        "samples of the victim class into the target. It is an upper bound, it has a direction, and small means "
        f"fragile.{explanation}{universal} Compare only distances of the same unit, protocol and family. A model whose distances "
        "fall far below those published here may have been tampered with."
    )


def table(head: list[str], lines: list[list[str]], numbers_from: int) -> str:
    """A Markdown table of any text; its columns from that number on are set to the right."""
    rule = ["---" if k < numbers_from else "---:" for k in range(len(head))]
    rows = [[safe(cell) for cell in head], rule, *([safe(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def safe(text: str) -> str:
    """Text that Markdown and the HTML within it take literally; newlines are shown, not obeyed."""
    escaped = re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", printable(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
