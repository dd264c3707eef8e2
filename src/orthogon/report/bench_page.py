"""A paper's table with measured figures beside published ones, from bench.json: terminal, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orthogon import runs
from orthogon.matrix import DistanceMatrix
from orthogon.printing import printable
from orthogon.report import terminal
from orthogon.report.bench_files import write_bench_files
from orthogon.report.card import safe, table
from orthogon.report.heat import HeatMap, distance_maps
from orthogon.report.reading import model_name
from orthogon.report.rendering import render
from orthogon.report.summary import shown_groups
from orthogon.report.words import change, counted, decimals, exact_percent, number, or_nan, points, without_folders


@dataclass(frozen=True)
class BenchLine:
    """A row as it is shown: its figures in the order of the columns, and where its own report is."""

    label: str
    figures: tuple[str, ...]
    status: str
    report: str | None = None


def write_bench(folder: Path) -> Path:
    """Writes bench.md and bench.html into the folder of a benchmark, from its files alone; returns the page's path.

    Raises:
        ValueError: the folder has no bench.json, or one of its files is not what it should be.
        RunError: the files cannot be written.
    """
    missing = "let its `orthogon bench` finish a row"
    return write_bench_files(
        folder / "bench.json",
        missing,
        "a benchmark",
        lambda record: (bench_markdown(record), render("bench.html.j2", **_content(record, folder))),
    )


def bench_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table."""
    shown = Table(title=terminal.title(record["title"]), show_edge=False)
    for count, head in enumerate(_columns(record)):
        shown.add_column(head, justify="right" if count else "left")
    for line in _lines(record):
        shown.add_row(Text(line.label), *line.figures, style="dim" if line.status in ("waiting", "published only") else "")
    return shown


def bench_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the table, one sentence or two each."""
    notes = [f"{line['label']} failed: {printable(str(line['reason']))}" for line in record["rows"] if line["status"] == "failed"]
    notes += [f"{line['label']}: {line['note']}." for line in record["rows"] if line["note"]]
    return [*notes, _published_words(record), _measured_words(record)]


def bench_markdown(record: Mapping[str, Any]) -> str:
    """The table and its notes as Markdown; absolute paths are cut to their last part."""
    lines = [[line.label, *line.figures] for line in _lines(record)]
    notes = [f"- {safe(without_folders(note))}" for note in bench_notes(record)]
    head = f"## {safe(record['title'])}\n\nModel: {safe(_model(record))}. Paper: {safe(record['paper'])}."
    return "\n\n".join([head, table(_columns(record), lines, numbers_from=1), "\n".join(notes)]) + "\n"


def _columns(record: Mapping[str, Any]) -> list[str]:
    own = ["method", "accuracy", "minutes", "mean distance", "average increase", "points lost"]
    theirs = ["published increase", "published lost", "published minutes"] if record["subject"] else []
    if _attacked(record):
        own += ["under attack"]
        theirs += ["published under attack"] if theirs else []
    return own + theirs


def _lines(record: Mapping[str, Any]) -> list[BenchLine]:
    places = decimals(line["distance"] or 0.0 for line in (record["natural"], *record["rows"]))
    natural = BenchLine("natural", _figures(record, record["natural"], places), "finished")
    return [natural, *(_line(record, line, places) for line in record["rows"])]


def _line(record: Mapping[str, Any], line: Mapping[str, Any], places: int) -> BenchLine:
    finished = line["status"] == "finished"
    label = printable(line["label"]) + ("" if finished else f" ({line['status']})")
    return BenchLine(label, _figures(record, line, places), line["status"], f"{line['row']}/report.html" if finished else None)


def _figures(record: Mapping[str, Any], line: Mapping[str, Any], places: int) -> tuple[str, ...]:
    theirs = line["published"] or {}
    shown = [
        exact_percent(line["accuracy"]),
        number(or_nan(line.get("minutes"))),
        number(or_nan(line["distance"]), places),
        change(line.get("increase")),
        points(line.get("lost")),
        *([exact_percent(line["robust"])] if _attacked(record) else []),
    ]
    if not record["subject"]:
        return tuple(shown)
    shown += [change(theirs.get("increase")), points(theirs.get("lost")), number(or_nan(theirs.get("minutes")))]
    return (*shown, *([exact_percent(theirs.get("robust"))] if _attacked(record) else []))


def _content(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    settings, natural = record["settings"], record["natural"]
    shared = {name: settings[name] for name in ("minutes", "min_accuracy", "held_out", "seed")} | settings["numbers"]
    measured = {name: settings[name] for name in ("measure", "pairs", "samples")} | {"unit": record["unit"]}
    differs = {line["label"]: _settings_words(line) for line in record["rows"] if line["method"]}
    groups = [
        ("Model", record["model"]),
        ("Test images", record["test"]),
        ("Every row alike", shared),
        ("Distances", measured),
        ("Encoder and decoder", record.get("measured_by")),
        ("What makes a row", differs),
        ("Versions", record["versions"]),
    ]
    places = decimals([natural["distance"] or 0.0])
    published = record["subject"]
    return {
        "title": printable(record["title"]),
        "model": printable(_model(record)),
        "paper": printable(record["paper"]),
        "sentence": _sentence(record),
        "figures": [
            ("Test accuracy, natural", exact_percent(natural["accuracy"]), f"{counted(record['test']['images'], 'image')}"),
            ("Mean distance, natural", number(or_nan(natural["distance"]), places), printable(record["unit"] or "not measured")),
            ("Rows finished", _finished_words(record), "each has a report of its own"),
            ("Published beside", printable(published["label"]) if published else "–", published["source"] if published else ""),
        ],
        "columns": _columns(record),
        "lines": _lines(record),
        "notes": [printable(without_folders(note)) for note in bench_notes(record)],
        "maps": _maps(record, folder),
        "provenance": shown_groups(groups),
    }


def _maps(record: Mapping[str, Any], folder: Path) -> list[tuple[str, HeatMap]]:
    """The natural model and every finished row on one colour scale; empty where nothing was measured."""
    finished = [line for line in record["rows"] if line["status"] == "finished"]
    after = {line["label"]: _matrix(folder / line["row"] / "after.json") for line in finished}
    before = [_matrix(folder / line["row"] / "before.json") for line in record["rows"]]
    natural = {"natural": next((matrix for matrix in before if matrix), None)}
    return distance_maps({name: matrix for name, matrix in {**natural, **after}.items() if matrix})


def _matrix(path: Path) -> DistanceMatrix | None:
    return DistanceMatrix.from_json(runs.read_json(path)) if path.exists() else None


def _sentence(record: Mapping[str, Any]) -> str:
    grown = [line for line in record["rows"] if line["status"] == "finished" and line["increase"] is not None]
    if not grown:
        return "No row has an average increase of the class distance yet."
    best = max(grown, key=lambda line: line["increase"])
    name, published = printable(best["label"]), (best["published"] or {}).get("increase")
    if best["increase"] <= 0:
        return f"No row moved the classes apart; {name} is the nearest to it, {change(best['increase'])} on average."
    lost = "lost" if best["lost"] >= 0 else "won"
    theirs = f" The paper has {change(published)} for it." if published is not None else ""
    return (
        f"Of {counted(len(grown), 'row')}, {name} moved the classes farthest apart: {change(best['increase'])} on average, "
        f"with {points(abs(best['lost']))} points of test accuracy {lost}, in {number(best['minutes'])} minutes.{theirs}"
    )


def _published_words(record: Mapping[str, Any]) -> str:
    if not record["subject"]:
        names = ", ".join(record["subjects"])
        return f"No published figures are shown, since no model of the paper was named; --subject names one: {names}."
    subject = record["subject"]
    return (
        f"Published: {subject['label']} ({subject['source']}), all pairs with the paper's protocol, on the paper's machine; "
        "their model, data split and budget are not yours, and their minutes are not comparable."
    )


def _measured_words(record: Mapping[str, Any]) -> str:
    settings = record["settings"]
    if settings["measure"] == "none":
        return "Measured: no distances, as --measure none says."
    pairs = "all pairs" if settings["pairs"] == "all" else f"of the pairs {settings['pairs']}"
    return (
        f"Measured: distances on held-out images ({settings['held_out']}), {pairs}, protocol {settings['measure']}; accuracy "
        f"on {record['test']['images']:,} test images. Points lost are of accuracy, in per cent."
    )


def _settings_words(line: Mapping[str, Any]) -> str:
    changes = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in line["changes"].items())
    return f"method {line['method']}" + (f", {changes}" if changes else "")


def _finished_words(record: Mapping[str, Any]) -> str:
    runnable = [line for line in record["rows"] if line["method"]]
    return f"{sum(line['status'] == 'finished' for line in runnable)} of {len(runnable)}"


def _attacked(record: Mapping[str, Any]) -> bool:
    return record["natural"]["robust"] is not None


def _model(record: Mapping[str, Any]) -> str:
    return model_name(dict(record))
