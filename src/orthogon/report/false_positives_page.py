"""False alarms before and after hardening, from the record of `orthogon bench false-positives`: terminal, Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from orthogon.bench.false_positives import TITLE, WORKS
from orthogon.report import card, terminal
from orthogon.report.words import counted, points, without_folders

_COLUMNS = ["Model", "Truth", "Before", "Score", "After", "Score", "Accuracy", "after", "Success rate", "after"]


def false_positives_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table: the counts before and after, beside those of the paper."""
    seen, published = record["counts"], record["published"] or {}
    heading = terminal.title(f"{TITLE}: {record['scanner']['name']}")
    table = Table("", "before", "after", "published before", "after", title=heading)
    for line in _compared(record, ("clean models flagged", "poisoned models flagged", "inconclusive")):
        table.add_row(*line)
    for name, count in seen["poisoned_hardened_too"].items():
        table.add_row(f"poisoned ones hardened too: {name.replace('_', ' ')}", "", str(count))
    for kind, lost in seen["accuracy_lost"].items():
        theirs = str(published.get("accuracy_lost", "")) if kind == "clean" else ""
        table.add_row(f"accuracy lost, points, {kind} models", "", "" if lost is None else points(lost), "", theirs)
    for name in ("waiting", "not_scanned", "failed"):
        table.add_row(name.replace("_", " "), "", str(seen[name]))
    return table


def false_positives_notes(record: Mapping[str, Any]) -> list[str]:
    """Why models failed, one sentence each."""
    return [f"{row['model']} failed: {row['reason']}" for row in _failed(record)]


def false_positives_markdown(record: Mapping[str, Any]) -> str:
    """The counts, their notes and every model; absolute paths are cut to their last part."""
    seen = record["counts"]
    parts = [
        f"# {TITLE}",
        f"Scanner {card.safe(record['scanner']['name'])}, hardening {card.safe(record['method'])}; {seen['clean']} clean and "
        f"{seen['poisoned']} poisoned models.",
        _counts_table(record),
        "\n".join(f"- {card.safe(without_folders(sentence))}" for sentence in _sentences(record)),
        card.table(_COLUMNS, [_model(row) for row in record["models"]], numbers_from=3),
    ]
    return "\n\n".join(parts) + "\n"


def _failed(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in record["models"] if row["reason"] is not None]


def _compared(record: Mapping[str, Any], names: tuple[str, str, str]) -> list[list[str]]:
    """False positives, true positives and what is inconclusive: name, before, after, and the same of the paper."""
    seen, papers = record["counts"], (record["published"] or {}, {}, {})
    kinds = (seen["false_positives"], seen["true_positives"], seen["inconclusive"])
    return [
        [name, *(str(told.get(when, "")) for told in both for when in ("before", "after"))]
        for name, *both in zip(names, kinds, papers, strict=True)
    ]


def _counts_table(record: Mapping[str, Any]) -> str:
    flagged = "Clean models flagged (false positives)", "Poisoned models flagged, left as they are (true positives)"
    head = ["", "Before", "After", *(["Published before", "after"] if record["published"] else [])]
    return card.table(head, [line[: len(head)] for line in _compared(record, (*flagged, "Inconclusive"))], numbers_from=1)


def _sentences(record: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the counts."""
    seen, too = record["counts"], record["counts"]["poisoned_hardened_too"]
    told = [
        f"The flagged poisoned models hardened too: {too['hardened']} hardened, {too['still_flagged']} still flagged, "
        f"{too['repaired']} repaired (no longer flagged, and the trigger works on fewer than {WORKS:.0%}), {too['hidden']} "
        f"hidden (no longer flagged, and the trigger still works), {too['unknown']} without a known trigger."
    ]
    told += [
        f"Accuracy lost by hardening, mean over the {kind} models: {points(lost)} points."
        for kind, lost in seen["accuracy_lost"].items()
        if lost is not None
    ]
    if seen["waiting"] or seen["not_scanned"]:
        told.append(f"Not finished: {seen['not_scanned']} not scanned, {seen['waiting']} flagged and not hardened yet.")
    if seen["failed"]:
        told += [f"Failed: {counted(seen['failed'], 'model')}.", *(f"{row['model']}: {row['reason']}" for row in _failed(record))]
    return [*told, f"Published: {record['published']['source']}."] if record["published"] else told


def _model(row: Mapping[str, Any]) -> list[str]:
    truth = {True: "poisoned", False: "clean"}.get(row["poisoned"], "unknown")
    before = row["before"] or ("failed" if row["reason"] else "waiting")
    after = row["after"] or ("failed" if row["before"] and row["reason"] else "")
    scores = [_shown(row[f"score_{when}"], ".3g") for when in ("before", "after")]
    shares = [_shown(row[f"{name}_{when}"], ".1%") for name in ("accuracy", "success") for when in ("before", "after")]
    return [row["model"], truth, before, scores[0], after, scores[1], *shares]


def _shown(value: float | None, shape: str) -> str:
    return "" if value is None else format(value, shape)
