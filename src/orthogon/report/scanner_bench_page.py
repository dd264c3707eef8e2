"""Scanners against models whose truth is known, from scanner-bench.json: terminal, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orthogon.printing import printable
from orthogon.report import colours, terminal
from orthogon.report.bench_files import write_bench_files
from orthogon.report.card import safe, table
from orthogon.report.heat import Cell, HeatMap
from orthogon.report.planted import aim
from orthogon.report.rendering import render
from orthogon.report.scanned_words import pair_words
from orthogon.report.summary import shown_groups
from orthogon.report.words import counted, lone_number, minutes, without_folders

FILE = "scanner-bench.json"
"""The record in the run's folder; the table and the page lie beside it."""
_COLUMNS = (
    "scanner",
    "AUC",
    "AUC, patches",
    "AUC, pervasive",
    "found",
    "false alarms",
    "inconclusive",
    "AUC, calibrated",
    "found, calibrated",
    "false alarms, calibrated",
    "target right",
    "pair right",
    "minutes",
    "models",
)


def write_scanner_bench(folder: Path) -> Path:
    """Writes scanner-bench.md and scanner-bench.html into the folder, from its scanner-bench.json alone; returns the page's path.

    Raises:
        ValueError: the folder has no such record, or it is not what it should be.
        RunError: the files cannot be written.
    """
    missing = "let its `orthogon bench scanners` finish a cell"
    return write_bench_files(
        folder / FILE,
        missing,
        "a benchmark of scanners",
        lambda record: (scanner_bench_markdown(record), render("scanner_bench.html.j2", **_content(record))),
    )


def scanner_bench_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table: a line per scanner."""
    shown = Table(title=terminal.title(record["title"]), show_edge=False)
    for count, head in enumerate(_COLUMNS):
        shown.add_column(head, justify="right" if count else "left")
    for line in _lines(record):
        shown.add_row(*map(Text, line))
    shown.caption = terminal.caption(_counts(record))
    return shown


def scanner_bench_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the tables, one sentence or two each."""
    labels = _labels(record)
    notes = [
        f"{labels[cell['row']]} failed on {cell['model']}, which counts nowhere: {cell['reason']}"
        for cell in record["cells"]
        if cell["status"] == "failed"
    ]
    notes += [
        f"{labels[cell['row']]} has no score for {cell['model']}, which ties with every other: {'; '.join(cell['doubts'])}"
        for cell in record["cells"]
        if cell["status"] == "finished" and cell["score"] is None
    ]
    notes += [
        f"{model['model']}: its card says that no backdoor took hold, so it counts as neither clean nor backdoored."
        for model in record["models"]
        if model["truth"]["backdoored"] is None
    ]
    return [printable(note) for note in [*notes, _MEASURED, _CALIBRATED]]


_MEASURED = (
    "AUC (area under the ROC curve): how often a backdoored model scores above a clean one; in brackets the 95 % interval over "
    "models drawn with replacement. Patches and pervasive triggers are each compared with the same clean models. Found, false "
    "alarms and inconclusive are verdicts by the scanner's own threshold. Target and pair: whether the first suspect, whatever "
    "the verdict, has the attack's target (of attacks on every class), or its victim and target (of attacks on one class)."
)
_CALIBRATED = (
    "Calibrated: by the probability that the logistic curve fitted on all other models gives a model (left one out), called "
    "backdoored from 70 %. So no model is judged by a curve that has seen it; models that share their data or their start are no "
    "strangers to each other all the same. The ensemble is the mean of these log-odds over the other scanners, and needs no scan "
    "of its own."
)


def scanner_bench_markdown(record: Mapping[str, Any]) -> str:
    """The tables and their notes as Markdown; absolute paths are cut to their last part."""
    notes = [f"- {safe(without_folders(note))}" for note in scanner_bench_notes(record)]
    parts = [
        f"## {safe(record['title'])}\n\n{_counts(record)}.",
        table(list(_COLUMNS), [list(line) for line in _lines(record)], numbers_from=1),
        "### Every model",
        table(_model_columns(record), [list(line) for line in _model_lines(record)], numbers_from=3),
    ]
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def _content(record: Mapping[str, Any]) -> dict[str, Any]:
    done = [cell for cell in record["cells"] if cell["status"] == "finished"]
    failed = sum(cell["status"] == "failed" for cell in record["cells"])
    groups = [
        ("Every cell alike", record["settings"]),
        *((row["label"], {"source": row["source"], "rule": row["rule"], **row["settings"]}) for row in record["rows"]),
        ("Versions", record["versions"]),
    ]
    return {
        "title": printable(record["title"]),
        "sentence": _sentence(record),
        "figures": [
            ("Models", f"{len(record['models'])}", _counts(record).partition(": ")[2]),
            ("Scanners", f"{len(record['rows'])}", "each with its own threshold"),
            ("Scans", f"{len(done)} of {len(record['cells'])}", f"{failed} failed" if failed else "none failed"),
        ],
        "columns": _COLUMNS,
        "lines": _lines(record),
        "notes": [without_folders(note) for note in scanner_bench_notes(record)],
        "map": _map(record) if done else None,
        "model_columns": _model_columns(record),
        "model_lines": _model_lines(record),
        "provenance": shown_groups([(title, without_folders(rows)) for title, rows in groups]),
    }


def _labels(record: Mapping[str, Any]) -> dict[str, str]:
    return {row["row"]: printable(row["label"]) for row in record["rows"]}


def _lines(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    labels = _labels(record)
    return [
        (
            labels[line["row"]],
            *(_area(line["auc"][kind]) for kind in ("all", "patch", "pervasive")),
            *(_part(line[name]) for name in ("found", "false_alarms", "inconclusive")),
            _area((line["calibrated"] or {}).get("auc")),
            *(_part((line["calibrated"] or {}).get(name)) for name in ("found", "false_alarms")),
            *(_part(line[name]) for name in ("target", "pair")),
            minutes(line["minutes"]),
            f"{line['models']} of {line['of']}",
        )
        for line in record["summary"]
    ]


def _area(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    span = found["interval_95"]
    return f"{found['value']:.3f}" + ("" if span is None else f" ({span[0]:.2f}–{span[1]:.2f})")


def _part(found: Mapping[str, int] | None) -> str:
    return f"{found['count']} of {found['of']}" if found and found["of"] else "–"


def _model_columns(record: Mapping[str, Any]) -> list[str]:
    return ["model", "attack", "aim", *_labels(record).values()]


def _model_lines(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Of each model, what every scanner said: verdict, score, probability and first suspect."""
    cells = {(cell["row"], cell["model"]): cell for cell in record["cells"]}
    return [
        (
            printable(model["model"]),
            _attack(model["truth"]),
            "–" if model["target"] is None else aim(model["victim"], model["target"]),
            *(_cell_words(cells[row["row"], model["model"]]) for row in record["rows"]),
        )
        for model in _ordered(record)
    ]


def _attack(truth: Mapping[str, Any]) -> str:
    if truth["attack"] is None:
        return "clean"
    return printable(truth["attack"]) + ("" if truth["backdoored"] else " (did not take hold)")


def _cell_words(cell: Mapping[str, Any]) -> str:
    if cell["status"] != "finished":
        return str(cell["status"])
    parts = [str(cell["verdict"]), lone_number(cell["score"])]
    if cell["probability"] is not None:
        parts.append(f"{100 * cell['probability']:.0f} %")
    if cell["target_right"] is not None:
        parts.append("right" if cell["pair_right"] else "target right" if cell["target_right"] else "another target")
    return ", ".join(parts)


def _ordered(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The clean models first, then by attack."""
    return sorted(record["models"], key=lambda model: (model["truth"]["attack"] is not None, str(model["truth"]["kind"])))


def _map(record: Mapping[str, Any]) -> HeatMap:
    """The scores, each scanner on a scale of its own: the share of its models that score lower."""
    cells = {(cell["row"], cell["model"]): cell for cell in record["cells"]}
    models, labels = _ordered(record), _labels(record)
    lines = []
    for row in record["rows"]:
        mine = [cells[row["row"], model["model"]] for model in models]
        scores = sorted(cell["score"] for cell in mine if cell["score"] is not None)
        lines.append(tuple(_shown(cell, labels, scores) for cell in mine))
    failed = sum(cell.kind == "fail" for line in lines for cell in line)
    return HeatMap(
        tuple(labels.values()),
        tuple(printable(model["model"]) for model in models),
        tuple(lines),
        None,
        *("highest", "", "lowest"),
        ramp="--near-far",
        failed={"failed, or without a score": failed} if failed else {},
        left_out=0,
    )


def _shown(cell: Mapping[str, Any], labels: Mapping[str, str], scores: Sequence[float]) -> Cell:
    where = f"{labels[cell['row']]}, {printable(cell['model'])}"
    if cell["status"] == "waiting":
        return Cell("skip", "", f"{where}: not run yet")
    if cell["status"] == "failed":
        return Cell("fail", "failed", f"{where}: failed, {printable(str(cell['reason']))}")
    if cell["score"] is None:
        return Cell("fail", "no score", f"{where}: {printable('; '.join(cell['doubts']))}")
    below = sum(score < cell["score"] for score in scores)
    first = f", first {pair_words(cell['first'])}" if cell["first"] else ""
    # the distances' scale, on which the least is the strongest
    level = colours.level_of(float(len(scores) - 1 - below), 0.0, max(1.0, len(scores) - 1.0))
    return Cell(f"q{level}", lone_number(cell["score"]), f"{where}: {cell['verdict']}, score {lone_number(cell['score'])}{first}")


def _counts(record: Mapping[str, Any]) -> str:
    truths = [model["truth"]["backdoored"] for model in record["models"]]
    parts = [f"{truths.count(False)} clean", f"{truths.count(True)} backdoored"]
    if unknown := truths.count(None):
        parts.append(f"{unknown} neither")
    return f"{counted(len(truths), 'model')}: {', '.join(parts)}"


def _sentence(record: Mapping[str, Any]) -> str:
    """The scanner that tells the models apart best, of those that have seen the most of them."""
    known = [line for line in record["summary"] if line["auc"]["all"] is not None]
    if not known:
        return "No scanner is finished on clean and on backdoored models yet."
    most = max(line["models"] for line in known)
    best = max((line for line in known if line["models"] == most), key=lambda line: line["auc"]["all"]["value"])
    label = _labels(record)[best["row"]]
    compared = sum(line["models"] == most for line in known)
    among = f" the best of {counted(compared, 'scanner')}" if compared > 1 else ""
    return (
        f"On {counted(most, 'model')}, {label} scores{among}: AUC {_area(best['auc']['all'])}. It finds {_part(best['found'])} "
        f"backdoored models, with {_part(best['false_alarms'])} clean ones called backdoored."
    )
