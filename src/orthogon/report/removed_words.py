"""A removal in a few sentences and numbers, for somebody who has to decide whether to use the repaired model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from orthogon.printing import printable
from orthogon.report import terminal
from orthogon.report.removed import Change, RemovedRun, Share, changes
from orthogon.report.summary import shown_groups
from orthogon.report.words import command_line, counted, duration, exact_percent

UNKNOWN = "No stamped images were given, so that nothing here says whether there was a backdoor, or whether it is gone."


def headline(run: RemovedRun) -> list[str]:
    """The verdict in plain sentences: attack success rate, accuracy; last the time and what was learned from."""
    return [*success_sentences(run), accuracy_sentence(run), time_sentence(run)]


def success_sentences(run: RemovedRun) -> list[str]:
    """How often the trigger works, and what its images are taken for; or that nobody looked."""
    if run.success is None or run.robust is None:
        return [UNKNOWN]
    seen, robust = run.success, run.robust
    of = "any class but the target" if run.victim is None else f"class {run.victim}"
    start = "The backdoor still works: the" if seen.after.value >= 0.5 else "The"
    return [
        f"{start} attack success rate {_moved(seen)}: the trigger turns {seen.after.count:,} of {seen.total:,} images of {of} "
        f"into {run.target}, {seen.before.count:,} before.",
        f"Of the same images, {robust.after.count:,} are taken for what they are, {robust.before.count:,} before.",
    ]


def accuracy_sentence(run: RemovedRun) -> str:
    """From what to what the accuracy went, and on which images."""
    return f"Accuracy on {run.accuracy.total:,} {_judged_are(run)} {_moved(run.accuracy)}."


def time_sentence(run: RemovedRun) -> str:
    """How long the repair took, and from how many images it learned."""
    (_, learned), (_, held_out) = run.images["clean"], run.images["held_out"]
    return (
        f"The repair took {duration(run.seconds)}. It learned from {counted(learned, 'clean image')}, with {held_out:,} more "
        "held out; it saw no stamped image."
    )


def warnings(run: RemovedRun) -> list[str]:
    """What a reader must not overlook."""
    told = [note for note in run.notes if note.startswith("take care")]
    if run.success is not None and run.success.before.value < 0.5:
        worked = exact_percent(run.success.before.value)
        told.append(f"Before the repair the trigger worked on {worked} of the images only: there was little to remove.")
    if _judged_are(run) == "held-out images":
        told.append(
            "The accuracy is that of the held-out images, by which a method may choose its thresholds, so that it may flatter. "
            "Images that nothing has seen (--test) tell it better."
        )
    return told


def subtitle(run: RemovedRun) -> str:
    """Method, number of classes and when."""
    started = run.started.get("started")
    parts = [f"repaired by {run.method}", counted(len(run.classes), "class")]
    parts += [printable(started[:16].replace("T", " "))] if isinstance(started, str) else []
    return " · ".join(parts)


def figures(run: RemovedRun) -> list[tuple[str, str, str]]:
    """The few numbers that matter, as (name, number, what it was)."""
    known = [change for change in (run.accuracy, run.success, run.robust) if change is not None]
    shown = [
        (change.name.capitalize(), exact_percent(change.after.value), f"{exact_percent(change.before.value)} before")
        for change in known
    ]
    return [*shown, ("Time", duration(run.seconds), run.method)]


def provenance(run: RemovedRun) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was repaired and judged with what: titled groups of (name, value)."""
    record = run.record
    images = {name.replace("_", " "): f"{source} ({counted(count, 'image')})" for name, (source, count) in run.images.items()}
    stamped = record["images"].get("stamped") or {}
    groups: list[tuple[str, Any]] = [
        ("Method", {"name": run.method, "source": record.get("source")} | dict(record.get("settings") or {})),
        ("Images", images | ({"stamp": stamped["stamp"]} if "stamp" in stamped else {})),
        ("Model", record.get("model")),
        ("Hashes", record.get("hashes")),
        ("Versions", record.get("versions") or run.started.get("versions")),
        ("Settings", run.started.get("settings")),
    ]
    return shown_groups(groups)


def command(run: RemovedRun) -> str | None:
    """The command that made the run; None where settings.json does not tell."""
    settings = run.started.get("settings")
    if not isinstance(settings, Mapping):
        return None
    rest = {name: value for name, value in settings.items() if name not in ("method", "set", "layer")}
    line = command_line({**run.started, "command": f"remove {shlex.quote(str(settings.get('method')))}", "settings": rest})
    repeated = [word for name in ("set", "layer") for value in settings.get(name) or () for word in (f"--{name}", str(value))]
    return line and printable(f"{line} {shlex.join(repeated)}".rstrip())


def removal_table(record: Mapping[str, Any]) -> Table:
    """The terminal's table: each share before and after, with its 95 % confidence interval.

    Args:
        record: removal.json of `orthogon remove`.
    """
    table = Table(title=terminal.title(f"Removal by {record['method']}"), show_edge=False)
    table.add_column("")
    for name in ("before", "95 %", "after", "95 %", "images"):
        table.add_column(name, justify="right")
    for change in filter(None, changes(record)):
        ends = (word for side in (change.before, change.after) for word in (exact_percent(side.value), interval(side)))
        table.add_row(change.name, *ends, f"{change.total:,}")
    judged = str(record["accuracy"]["images"])
    note = "" if judged == "test images" else ", by which thresholds may be chosen (--test names others)"
    table.caption = terminal.caption(f"accuracy on {judged}{note}; the repair took {duration(float(record['seconds']))}")
    return table


def interval(share: Share) -> str:
    """ "90.12 to 93.40 %"."""
    return f"{100 * share.low:.2f} to {100 * share.high:.2f} %"


def _moved(change: Change) -> str:
    before, after = exact_percent(change.before.value), exact_percent(change.after.value)
    verb = "fell" if change.after.value < change.before.value else "rose"
    ends = f"stayed at {after}" if before == after else f"{verb} from {before} to {after}"
    return f"{ends} (95 % confidence: {interval(change.after)})"


def _judged_are(run: RemovedRun) -> str:
    return printable(str(run.record["accuracy"]["images"]))
