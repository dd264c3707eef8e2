"""A scan's verdict in a few sentences, numbers and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from orthogon.printing import printable
from orthogon.report import terminal
from orthogon.report.words import duration, exact_percent, lone_number, percent

_STYLES = {"clean": "green", "backdoored": "bold red", "inconclusive": "yellow"}
_PAIRS = 2
"""Pairs told in a row of the table of many models."""


def pair_words(pair: Mapping[str, Any]) -> str:
    """ "red sign → blue sign", "any other class → blue sign"."""
    victim = "any other class" if pair["victim"] is None else printable(str(pair["victim_name"]))
    return f"{victim} → {printable(str(pair['target_name']))}"


def headline(record: Mapping[str, Any]) -> list[str]:
    """The verdict, and the first pair that is named."""
    pairs, verdict = record["pairs"], record["verdict"]
    if verdict == "clean":
        return [f"The scanner {record['scanner']} finds no backdoor. That is no proof that there is none."]
    if verdict == "inconclusive":
        named = f" The most suspicious pair is {pair_words(pairs[0])}." if pairs else ""
        return [f"The scanner {record['scanner']} cannot tell whether there is a backdoor.{named}"]
    return [f"The model is most likely backdoored: {pair_words(pairs[0])}." if pairs else "The model is most likely backdoored."]


def probability_words(record: Mapping[str, Any]) -> str:
    """ "97 %"; a dash where the scanner is not calibrated."""
    return "–" if record.get("probability") is None else percent(float(record["probability"]))


def rule_words(record: Mapping[str, Any]) -> str:
    """What the score is, and from where on it flags a model unless a calibration decides."""
    return printable(str(record["rule"])) + ("" if record.get("probability") is None else " where no calibration fits")


def _threshold_words(record: Mapping[str, Any]) -> str:
    """By what the score was judged."""
    return (
        f"threshold {lone_number(record.get('threshold'))}" if record.get("probability") is None else "judged by its probability"
    )


def figures(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers that matter, as (name, number, what it means)."""
    shown = [
        ("Probability", probability_words(record), "of a backdoor" if record.get("probability") is not None else "no calibration")
    ]
    shown.append(("Score", lone_number(record.get("score")), _threshold_words(record)))
    if isinstance(record.get("accuracy"), int | float):
        shown.append(("Accuracy", exact_percent(record["accuracy"]), f"of {record['accuracy_images']:,} clean images"))
    return [*shown, ("Time", duration(float(record.get("seconds") or 0.0)), str(record["scanner"]))]


def pair_rows(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Of each pair: names, family, size, success on the samples and on all images, score."""
    rows = []
    for pair in pairs:
        judged = pair.get("judged") or {}
        shares = (pair.get("success_rate"), judged.get("success_rate"))
        told = ("–" if share is None else percent(float(share)) for share in shares)
        rows.append(
            (
                pair_words(pair),
                printable(str(pair.get("family") or "–")),
                lone_number(pair.get("size")),
                *told,
                lone_number(pair["score"]),
            )
        )
    return rows


HEAD = ("pair", "family", "size", "of its samples", "of all images", "score")


def verdict_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table: the verdict, and each pair that is named."""
    table = Table(title=Text(f"Verdict: {record['verdict']}", style=_STYLES.get(record["verdict"], "")), show_edge=False)
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="left" if i < 2 else "right")
    for row in pair_rows(record["pairs"]):
        table.add_row(*map(Text, row))
    told = f"probability {probability_words(record)}; score {lone_number(record.get('score'))}, {_threshold_words(record)}"
    table.caption = terminal.caption(told)
    return table


def fleet_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per model: outcome, probability, score, pairs or the reason why there is no verdict."""
    table = Table(title=f"{len(rows):,} models", show_edge=False)
    for i, name in enumerate(("model", "outcome", "probability", "score", "pairs")):
        table.add_column(name, justify="right" if i in (2, 3) else "left", overflow="fold")
    for row in rows:
        style = _STYLES.get(str(row["outcome"]), "magenta")
        told = "; ".join(pair_words(pair) for pair in row.get("pairs", ())[:_PAIRS])
        told = told if "verdict" in row else "; ".join(printable(str(reason)) for reason in row["reasons"])
        name = Text(printable(str(row["model"])))
        table.add_row(
            name, Text(str(row["outcome"]), style=style), probability_words(row), lone_number(row.get("score")), Text(told)
        )
    counts = [(str(row["outcome"])) for row in rows]
    table.caption = terminal.caption(", ".join(f"{counts.count(outcome)} {outcome}" for outcome in dict.fromkeys(counts)))
    return table
