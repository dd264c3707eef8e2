from __future__ import annotations

import io
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from orthogon.bench.false_positives import PUBLISHED, counts
from orthogon.report.false_positives_page import false_positives_markdown, false_positives_notes, false_positives_table

HOSTILE = "id-[/old]|a_b<script>"
NAMES = [f"{name}_{when}" for name in ("score", "accuracy", "success") for when in ("before", "after")]


def row(model: str, poisoned: bool, before: str | None, **known: Any) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys([*NAMES, "after", "reason"])
    return empty | {"model": model, "poisoned": poisoned, "before": before, "accuracy_before": 0.9} | known


ROWS = [
    row("waits", False, None),
    row("alarm", False, "backdoored", score_before=2.5, after="clean", accuracy_after=0.89),
    row("stays", False, "backdoored"),
    row(HOSTILE, False, None, reason="/home/alice/net.pt | gone\n# of [/old]"),
    row("repaired", True, "backdoored", after="clean", accuracy_after=0.9, success_before=1.0, success_after=0.1),
    row("hidden", True, "backdoored", after="clean", accuracy_after=0.9, success_before=1.0, success_after=0.9),
]


def record(method: str = "moth", name: str = "distance") -> dict[str, Any]:
    published = None if (paper := PUBLISHED.get(method)) is None else asdict(paper)
    return {"counts": counts(ROWS), "published": published, "scanner": {"name": name}, "method": method, "models": ROWS}


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


@pytest.mark.parametrize("method", ["moth", "pairwise"])
def test_the_table_in_markdown(method: str) -> None:
    text = false_positives_markdown(record(method))
    lines = [line for line in text.splitlines() if line.startswith("| Clean models flagged")]
    assert lines == ["| Clean models flagged (false positives) | 2 | 1 |" + (" 32 | 6 |" if method == "moth" else "")]
    assert "1 repaired" in text
    assert "1 hidden" in text
    assert "1 not scanned, 1 flagged and not hardened yet" in text
    assert "mean over the clean models: 1.00 points" in text
    assert "Failed: 1 model." in text
    assert "| alarm | clean | backdoored | 2.5 | clean |  | 90.0% | 89.0% |  |  |" in text
    assert len([line for line in text.splitlines() if cells(line) == 10]) == 2 + len(ROWS)


def test_strangers_names_and_reasons_are_text_in_markdown() -> None:
    text = false_positives_markdown(record(name="<b>"))
    assert r"| id-\[/old\]\|a\_b&lt;script&gt; |" in text
    assert "<" not in text
    assert "alice" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# False alarms before and after hardening"]


def test_the_terminal_s_table_and_notes() -> None:
    file = io.StringIO()
    Console(width=160, file=file).print(false_positives_table(record(name="[/old]")))
    text = file.getvalue()
    assert "False alarms before and after hardening: [/old]" in text
    told = {line.split("│")[1].strip(): line.split("│")[2:] for line in text.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in told["clean models flagged"]] == ["2", "1", "32", "6", ""]
    assert [cell.strip() for cell in told["accuracy lost, points, clean models"]] == ["", "1.00", "", "0.13", ""]
    assert false_positives_notes(record()) == [f"{HOSTILE} failed: /home/alice/net.pt | gone\n# of [/old]"]
