"""The terminal's tables of planted models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from orthogon.printing import printable
from orthogon.report import terminal
from orthogon.report.words import exact_percent


def planting_table(record: Mapping[str, Any]) -> Table:
    """One line: what was planted in what, and how well both of it works.

    Args:
        record: planting.json of `orthogon poison`.
    """
    attack, clean, stamped = record["attack"], record["clean"], record["stamped"]
    table = Table(title="Backdoor" if attack["planted"] else "No backdoor", show_edge=False)
    for name in ("attack", "model", "aim"):
        table.add_column(name, overflow="ellipsis", max_width=48)
    for name in ("clean accuracy", "attack success", "robust accuracy"):
        table.add_column(name, justify="right")
    figures = clean["accuracy"], attack["attack_success_rate"], attack["robust_accuracy"]
    shown = (attack["name"], record["made_by"], aim(stamped["victim"], stamped["target"]))
    table.add_row(*(Text(printable(str(text))) for text in shown), *map(exact_percent, figures))
    images = f"{clean['total']:,} held-out images, {stamped['total']:,} of them stamped"
    confidence = f"95 % confidence of the success rate: {_interval(stamped['attack_success_interval_95'])}"
    table.caption = terminal.caption(f"{images}; {confidence}")
    return table


def zoo_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per model of the zoo.

    Args:
        rows: each with `name`, `attack`, `state`, and `made_by`, `accuracy`, `success`, `bytes` and `sha256`, which are None
            for what is not known.
    """
    table = Table(title="Zoo", show_edge=False)
    for name in ("model", "attack", "made"):
        table.add_column(name, overflow="ellipsis", max_width=44)
    for name in ("accuracy", "success", "size"):
        table.add_column(name, justify="right")
    table.add_column("SHA-256")
    table.add_column("state", overflow="fold")
    for row in rows:
        words = (row["name"], row["attack"] or "clean", (row["made_by"] or "").split(" ")[0])
        table.add_row(
            *(Text(printable(word)) for word in words),
            exact_percent(row["accuracy"], ""),
            exact_percent(row["success"], ""),
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.2f} MB",
            (row["sha256"] or "")[:12],
            Text(printable(row["state"])),
            style="" if row["accuracy"] is not None else "dim",
        )
    return table


def aim(victim: str | None, target: str) -> str:
    """ "any other class → ship"."""
    return f"{'any other class' if victim is None else printable(victim)} → {printable(target)}"


def _interval(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %"
