"""Removers against poisoned models, measured figures beside published ones, from removal-bench.json: terminal, Markdown, HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orthogon.bench.removal import AS_IT_CAME
from orthogon.printing import printable
from orthogon.report import colours, terminal
from orthogon.report.bench_files import write_bench_files
from orthogon.report.card import safe, table
from orthogon.report.heat import Cell, HeatMap
from orthogon.report.planted import aim
from orthogon.report.rendering import render
from orthogon.report.summary import shown_groups
from orthogon.report.words import counted, exact_percent, minutes, points, without_folders

FILE = "removal-bench.json"
"""The record in the run's folder; the table and the page lie beside it."""
_LEAST_SPAN = 0.05
"""Accuracy lost at the strong end of its heat map, at least: a tenth of a point is no alarm."""


@dataclass(frozen=True)
class RemovalLine:
    """A row of a table: its figures in the order of the columns, measured or published."""

    label: str
    figures: tuple[str, ...]
    published: bool = False


def write_removal_bench(folder: Path) -> Path:
    """Writes removal-bench.md and removal-bench.html into the folder, from its removal-bench.json alone; returns the page's path.

    Raises:
        ValueError: the folder has no such record, or it is not what it should be.
        RunError: the files cannot be written.
    """
    missing = "let its `orthogon bench` finish a cell"
    return write_bench_files(
        folder / FILE,
        missing,
        "a benchmark of removers",
        lambda record: (removal_bench_markdown(record), render("removal_bench.html.j2", **_content(record))),
    )


def removal_bench_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table: the means over the models."""
    shown = Table(title=terminal.title(record["title"]), show_edge=False)
    columns = _mean_columns()
    for count, head in enumerate(columns):
        shown.add_column(head, justify="right" if count else "left")
    for line in _mean_lines(record):
        shown.add_row(Text(line.label), *map(Text, line.figures))
    shown.caption = terminal.caption(f"means over {counted(len(record['models']), 'model')}")
    return shown


def removal_bench_notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader has to know beside the tables, one sentence or two each."""
    labels = _labels(record)
    notes = [
        f"{labels[cell['row']]} failed on {cell['model']}, which counts in no mean: {cell['reason']}"
        for cell in record["cells"]
        if cell["status"] == "failed"
    ]
    if absent := [row["label"] for row in record["rows"] if not row["runs"]]:
        notes.append(f"Published figures alone, since there is no implementation here yet: {', '.join(absent)}.")
    notes += [_not_planted(model) for model in record["models"] if model["planted"] is False]
    return [printable(note) for note in [*notes, _measured_words(record), *_published_words(record)]]


def removal_bench_markdown(record: Mapping[str, Any]) -> str:
    """The tables and their notes as Markdown; absolute paths are cut to their last part."""
    means = [[line.label, *line.figures] for line in _mean_lines(record)]
    notes = [f"- {safe(without_folders(note))}" for note in removal_bench_notes(record)]
    parts = [
        f"## {safe(record['title'])}\n\nPublished figures: {safe(record['paper'])}.",
        "### Means over the models",
        table(_mean_columns(), means, numbers_from=1),
    ]
    for title, lines in _model_tables(record):
        parts += [f"### {safe(title)}", table(_model_columns(record), [[line.label, *line.figures] for line in lines], 1)]
    return "\n\n".join([*parts, "\n".join(notes)]) + "\n"


def _content(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = record["settings"]
    shared = {name: settings[name] for name in ("data", "clean", "seed", "flip", "shift")}
    groups = [
        ("Every cell alike", without_folders(shared)),
        *((row["label"], {"source": row["source"], **row["settings"]}) for row in record["rows"] if row["settings"] is not None),
        ("Versions", record["versions"]),
    ]
    cells, methods = [cell for cell in record["cells"] if cell["status"] != "waiting"], _methods(record)
    failed = sum(cell["status"] == "failed" for cell in cells)
    before = _means(record).get(AS_IT_CAME, {})
    return {
        "title": printable(record["title"]),
        "paper": printable(record["paper"]),
        "sentence": _sentence(record),
        "figures": [
            ("Poisoned models", f"{len(record['models'])}", "each with a known trigger"),
            ("Methods", f"{len(methods)}", printable(f"with {settings['clean']} of the training images, clean")),
            (
                "Cells finished",
                f"{len(cells) - failed} of {len(record['cells'])}",
                f"{failed} failed" if failed else "none failed",
            ),
            ("ASR as they came", exact_percent(before.get("success")), f"accuracy {exact_percent(before.get('accuracy'))}"),
        ],
        "columns": _mean_columns(),
        "lines": _mean_lines(record),
        "notes": [without_folders(note) for note in removal_bench_notes(record)],
        "maps": _maps(record),
        "model_columns": _model_columns(record),
        "model_tables": _model_tables(record),
        "models": [_model_words(model, record) for model in record["models"]],
        "told": _told(record),
        "provenance": shown_groups(groups),
    }


def _labels(record: Mapping[str, Any]) -> dict[str, str]:
    return {row["row"]: printable(row["label"]) for row in record["rows"]}


def _methods(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in record["rows"] if row["runs"] and row["settings"] is not None]


def _means(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {mean["row"]: mean for mean in record["means"]}


def _published(record: Mapping[str, Any], column: str, row: str) -> Mapping[str, Any]:
    """What was published of a method on the subject that stands beside a column; empty where nothing was."""
    subject = record["published"].get(record["beside"].get(column))
    return {} if subject is None else subject["rows"].get(row, {})


def _mean_columns() -> list[str]:
    own = ["method", "accuracy", "points lost", "ASR", "robust accuracy", "minutes", "models"]
    return [*own, "published accuracy", "published lost", "published ASR"]


def _mean_lines(record: Mapping[str, Any]) -> list[RemovalLine]:
    means = _means(record)
    natural = _published(record, "mean", AS_IT_CAME).get("accuracy")
    lines = []
    for row in record["rows"]:
        mean, theirs = means.get(row["row"], {}), _published(record, "mean", row["row"])
        lost = None if None in (natural, theirs.get("accuracy")) else natural - theirs["accuracy"]
        figures = (
            exact_percent(mean.get("accuracy")),
            points(mean.get("lost")),
            exact_percent(mean.get("success")),
            exact_percent(mean.get("robust")),
            minutes(mean.get("minutes")),
            f"{mean['models']} of {mean['of']}" if mean else "–",
            exact_percent(theirs.get("accuracy")),
            points(lost),
            exact_percent(theirs.get("success")) if theirs.get("success") is not None else printable(theirs.get("words") or "–"),
        )
        lines.append(RemovalLine(printable(row["label"]), figures, published=not row["runs"]))
    return lines


def _model_columns(record: Mapping[str, Any]) -> list[str]:
    return ["method", *(printable(model["model"]) for model in record["models"]), "mean"]


def _model_tables(record: Mapping[str, Any]) -> list[tuple[str, list[RemovalLine]]]:
    """The figures of every model: those that were published of others in a row of their own below."""
    return [
        ("Accuracy / ASR of each model, per cent", _model_lines(record, lambda found: _pair(found, "accuracy", "success"))),
        ("Robust accuracy of each model, per cent", _model_lines(record, lambda found: points(found.get("robust")))),
        ("Minutes", _model_lines(record, lambda found: minutes(found.get("minutes")))),
    ]


def _model_lines(record: Mapping[str, Any], shown: Callable[[Mapping[str, Any]], str]) -> list[RemovalLine]:
    names = [model["model"] for model in record["models"]]
    cells = {(cell["row"], cell["model"]): cell for cell in record["cells"]}
    means, lines = _means(record), []
    for row in record["rows"]:
        if row["runs"]:
            measured = [_cell_words(cells[row["row"], name], shown) for name in names]
            lines.append(RemovalLine(printable(row["label"]), (*measured, _mean_words(means[row["row"]], shown))))
        theirs = tuple(shown(_published(record, name, row["row"])) for name in (*names, "mean"))
        lines.append(RemovalLine(f"{printable(row['label'])}, published", theirs, published=True))
    return [line for line in lines if set(line.figures) != {"–"}]


def _cell_words(cell: Mapping[str, Any], shown: Callable[[Mapping[str, Any]], str]) -> str:
    return shown(cell) if cell["status"] == "finished" else cell["status"]


def _mean_words(mean: Mapping[str, Any], shown: Callable[[Mapping[str, Any]], str]) -> str:
    """A mean that leaves models out says so."""
    part = "" if mean["models"] in (0, mean["of"]) else f" ({mean['models']} of {mean['of']})"
    return shown(mean) + part


def _maps(record: Mapping[str, Any]) -> list[tuple[str, str, tuple[str, str], HeatMap]]:
    """Attack success rate and accuracy lost, as (title, caption, ends of the legend, heat map); what is bad is strong."""
    methods = [row["row"] for row in _methods(record)]
    if not any(cell["status"] == "finished" for cell in record["cells"]):
        return []
    success = _heat(record, [AS_IT_CAME, *methods], "success", 1.0, "ASR")
    maps = [("Attack success rate", "after each method, per cent of the stamped test images", ("works", "removed"), success)]
    losses = [cell["lost"] for cell in record["cells"] if cell["lost"] is not None]
    if methods:
        span = max([_LEAST_SPAN, *losses])
        lost = _heat(record, methods, "lost", span, "points lost")
        maps.append(("Accuracy lost", "points of test accuracy, below zero where it rose", ("much lost", "nothing lost"), lost))
    return maps


def _heat(record: Mapping[str, Any], rows: Sequence[str], field: str, most: float, unit: str) -> HeatMap:
    labels, means = _labels(record), _means(record)
    cells = {(cell["row"], cell["model"]): cell for cell in record["cells"]}
    names = [model["model"] for model in record["models"]]

    def cell(row: str, name: str, found: Mapping[str, Any]) -> Cell:
        where = f"{labels[row]}, {printable(name)}"
        if found.get("status") == "failed":
            return Cell("fail", "failed", f"{where}: failed, {printable(str(found['reason']))}")
        value = found[field]
        if value is None:
            return Cell("skip", "", f"{where}: not run yet")
        shown = f"{100 * value:.1f}"
        # the distances' scale, on which the least is the strongest
        return Cell(f"q{colours.level_of(most - value, 0.0, most)}", shown, f"{where}: {shown} {unit}")

    lines = [(*(cell(row, name, cells[row, name]) for name in names), cell(row, "mean", means[row])) for row in rows]
    failed = sum(c.kind == "fail" for line in lines for c in line)
    ends = [f"{round(100 * share * most, 1):g}" for share in (1.0, 0.5, 0.0)]
    return HeatMap(
        tuple(labels[row] for row in rows),
        (*(printable(name) for name in names), "mean"),
        tuple(lines),
        None,
        *ends,
        ramp="--near-far",
        failed={"failed": failed} if failed else {},
        left_out=0,
    )


def _model_words(model: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, ...]:
    """A model in the page's list of models."""
    subject = record["published"].get(record["beside"].get(model["model"]))
    return (
        printable(model["model"]),
        printable(model["stamp"]),
        aim(model["victim"], model["target"]),
        f"{model['clean']['images']:,}",
        f"{model['test']['images']:,}",
        "–" if subject is None else printable(f"{subject['label']} ({subject['source']})"),
    )


def _told(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the methods had to say of single models, the same words once: (where, words)."""
    labels, places = _labels(record), {}
    for cell in record["cells"]:
        for note in cell["notes"]:
            places.setdefault((cell["row"], note), []).append(printable(cell["model"]))
    return [(f"{labels[row]}, {', '.join(names)}", printable(without_folders(note))) for (row, note), names in places.items()]


def _sentence(record: Mapping[str, Any]) -> str:
    means, labels = _means(record), _labels(record)
    known = [
        means[row["row"]] for row in _methods(record) if means[row["row"]]["models"] and means[row["row"]]["lost"] is not None
    ]
    if not known:
        return "No method is finished on any model yet."
    most = max(mean["models"] for mean in known)
    best = min((mean for mean in known if mean["models"] == most), key=lambda mean: mean["success"])
    before, theirs = _before(record, best["row"]), _published(record, "mean", best["row"]).get("success")
    models = counted(best["of"], "poisoned model") if most == best["of"] else f"{most} of {best['of']} poisoned models"
    beside = f" Published on other models: {exact_percent(theirs)}." if theirs is not None else ""
    count = sum(mean["models"] == most for mean in known)
    least = f"{labels[best['row']]} left" + (f" the attacks least of {counted(count, 'method')}:" if count > 1 else "")
    verb = "lost" if best["lost"] >= 0 else "won"
    return (
        f"On {models}, {least} an attack success rate of {exact_percent(best['success'])} on average, where it was "
        f"{exact_percent(before)}, with {points(abs(best['lost']))} points of accuracy {verb}.{beside}"
    )


def _before(record: Mapping[str, Any], row: str) -> float:
    """Mean attack success rate, before anything was done, on the models on which a row is finished."""
    finished = {cell["model"] for cell in record["cells"] if cell["row"] == row and cell["lost"] is not None}
    rates = [cell["success"] for cell in record["cells"] if cell["row"] == AS_IT_CAME and cell["model"] in finished]
    return sum(rates) / len(rates)


def _measured_words(record: Mapping[str, Any]) -> str:
    settings, tests = record["settings"], {model["test"]["images"] for model in record["models"]}
    images = f"{min(tests):,}" if len(tests) == 1 else f"{min(tests):,} to {max(tests):,}"
    return (
        f"Measured: every method gets the same clean part of the training images ({settings['clean']}, seed {settings['seed']}); "
        f"accuracy, ASR (attack success rate) and robust accuracy (stamped images that get their true class) are of {images} "
        "test images, none of which is among the clean ones. Of a label-specific attack only images of the victim class are "
        "stamped. Points lost are of accuracy, in per cent."
    )


def _published_words(record: Mapping[str, Any]) -> list[str]:
    """Where the published figures come from; the models of the papers are not the user's."""
    notes, shown = [], set(record["beside"].values())
    for key, subject in record["published"].items():
        if key in shown:
            columns = [column if column != "mean" else "the mean" for column, named in record["beside"].items() if named == key]
            more = f"; {subject['note']}" if subject["note"] else ""
            notes.append(f"Published beside {' and '.join(columns)}: {subject['label']} ({subject['source']}){more}.")
    return [*notes, "Their models, data and training are not yours: compare the order of the methods before their numbers."]


def _not_planted(model: Mapping[str, Any]) -> str:
    return f"{model['model']}: its card says that no backdoor took hold, so there is little to remove."


def _pair(found: Mapping[str, Any], first: str, second: str) -> str:
    if found.get("words") and found.get(second) is None:
        return printable(found["words"])
    one, other = found.get(first), found.get(second)
    return "–" if one is None and other is None else f"{points(one)} / {points(other)}"
