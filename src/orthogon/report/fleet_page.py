"""One self-contained HTML page of the scans of many models: the suspicious ones first, each with its own page behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.printing import printable
from orthogon.report.rendering import render
from orthogon.report.scanned_words import pair_words, probability_words
from orthogon.report.summary import shown_groups
from orthogon.report.words import counted, decimals, duration, number

TABLE = "scans.json"
_RANKS = {"backdoored": 0, "inconclusive": 1, "clean": 3}
"""Of the verdicts; a model without one stands before the clean ones, since nobody knows."""
_PAIRS = 2
"""Pairs told in a row."""


@dataclass(frozen=True)
class FleetRow:
    """A model in words."""

    model: str
    page: str | None
    """Of its own, relative to the fleet's."""
    outcome: str
    kind: int
    """The number of its outcome among those that there are."""
    probability: str
    score: str
    told: str
    """The pairs, or the reason why there is no verdict."""
    seconds: str


def is_fleet(folder: Path) -> bool:
    """Whether the folder holds scans of several models."""
    return (folder / TABLE).exists()


def fleet_page(folder: Path) -> str:
    """The HTML of the scans of a folder.

    Raises:
        ValueError: its scans.json is not the record of such scans.
        RunError: settings.json is not the settings of a run.
    """
    record = runs.read_json(folder / TABLE)
    if missing := {"models", "counts"} - record.keys():
        raise ValueError(f"{folder / TABLE} is not the record of scans: {', '.join(sorted(missing))} missing")
    started = runs.read_settings(folder) or {}
    outcomes = sorted(record["counts"], key=lambda name: (_RANKS.get(name, 2), name))
    rows = [_row(row, outcomes, folder) for row in sorted(record["models"], key=suspicion)]
    return render(
        "fleet.html.j2",
        title=counted(len(rows), "model"),
        subtitle=_subtitle(record, started),
        sentence=_sentence(record["counts"], len(rows)),
        figures=_figures(record),
        kinds=[(number, printable(name), record["counts"][name]) for number, name in enumerate(outcomes)],
        rows=rows,
        provenance=shown_groups(
            [
                ("Scanner", (started.get("inputs") or {}).get("scanner")),
                ("Settings", started.get("settings")),
                ("Versions", record.get("versions")),
            ]
        ),
    )


def suspicion(row: Mapping[str, Any]) -> tuple[int, float, float, str]:
    """By which the rows are sorted: verdict, then probability, then score, the most suspicious first; then the name."""
    return _RANKS.get(row["outcome"], 2), -_known(row.get("probability")), -_known(row.get("score")), str(row["model"])


def _known(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else -math.inf


def _row(row: Mapping[str, Any], outcomes: Sequence[str], folder: Path) -> FleetRow:
    pairs = "; ".join(pair_words(pair) for pair in (row.get("pairs") or ())[:_PAIRS])
    reasons = "; ".join(printable(str(reason)) for reason in row.get("reasons") or ())
    score, seconds = row.get("score"), row.get("seconds")
    return FleetRow(
        printable(str(row["model"])),
        _page(row, folder),
        printable(str(row["outcome"])),
        outcomes.index(row["outcome"]),
        probability_words(row),
        "–" if score is None else number(float(score), max(1, decimals([float(score)]))),
        (pairs or "–") if "verdict" in row else reasons,
        "–" if seconds is None else duration(float(seconds)),
    )


def _page(row: Mapping[str, Any], folder: Path) -> str | None:
    """Where the model's own page lies; named by the last part of its folder, so that the fleet's folder can be moved."""
    own = Path("models") / Path(str(row.get("folder"))).name / "report.html"
    return own.as_posix() if row.get("folder") and (folder / own).is_file() else None


def _subtitle(record: Mapping[str, Any], started: Mapping[str, Any]) -> str:
    parts = [f"scanned by {printable(str(record['scanner']))}"] if record.get("scanner") else []
    when = started.get("started")
    return " · ".join([*parts, *([printable(when[:16].replace("T", " "))] if isinstance(when, str) else [])])


def _sentence(counts: Mapping[str, int], total: int) -> str:
    found, open_ones = counts.get("backdoored", 0), counts.get("inconclusive", 0)
    without = total - found - open_ones - counts.get("clean", 0)
    told = f"{counted(found, 'model')} of {total:,} {'is' if found == 1 else 'are'} called backdoored."
    if open_ones:
        told += f" Of {open_ones:,} the scanner cannot tell."
    if without:
        told += f" {without:,} could not be scanned; the table says why."
    return told


def _figures(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Counts, and what it took."""
    counts, command = record["counts"], record.get("command") or {}
    verdicts = {name: counts.get(name, 0) for name in _RANKS}
    shown = [(name.capitalize(), f"{count:,}", "") for name, count in verdicts.items()]
    shown.append(("Without a verdict", f"{sum(counts.values()) - sum(verdicts.values()):,}", "see their reasons"))
    work = sum(float(row.get("seconds") or 0.0) for row in record["models"])
    shown.append(("Time of the scans", duration(work), "of all that have a verdict"))
    if command.get("seconds") is not None:
        where = "here" if command.get("where") == "here" else "on a Ray cluster"
        many = command.get("at_once")
        note = f"of the last command, {where}" + (f", {many:,} at once" if many else "")
        shown.append(("By the clock", duration(float(command["seconds"])), note))
    return shown
