"""The page of a fleet, from records alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orthogon import runs
from orthogon.report import write_report
from orthogon.report.fleet_page import suspicion

PAIR = {"victim": None, "target": 1, "victim_name": None, "target_name": "<b>stop</b>"}


def row(model: str, outcome: str, **more: Any) -> dict[str, Any]:
    if outcome not in ("clean", "backdoored", "inconclusive"):
        return {"model": model, "outcome": outcome, "reasons": ["why\u202enot"], "folder": f"/elsewhere/models/{model}-1"} | more
    told = {"model": model, "folder": f"/elsewhere/models/{model}-1", "outcome": outcome, "verdict": outcome, "probability": None}
    return told | {"score": 1.0, "pairs": [], "reasons": [], "seconds": 60.0} | more


ROWS = [
    row("a", "clean", score=0.1),
    row("b", "timed out"),
    row("c", "backdoored", score=2.0, pairs=[PAIR, PAIR, PAIR]),
    row("d", "inconclusive", score=None),
    row("e", "backdoored", score=1.5, probability=0.97),
    row("f", "clean", score=0.9),
    row("g", "backdoored", score=30.0),
    row("h<i>", "cannot be scanned", folder=None),
]


@pytest.fixture
def page(tmp_path: Path) -> str:
    counts = {"clean": 2, "timed out": 1, "backdoored": 3, "inconclusive": 1, "cannot be scanned": 1}
    command = {"seconds": 200.0, "where": "here", "at_once": 2}
    runs.write_json(tmp_path / "settings.json", {"command": "scan", "settings": {"seed": 3}, "started": "2026-01-02T03:04:05"})
    runs.write_json(tmp_path / "scans.json", {"scanner": "nc", "models": ROWS, "counts": counts, "command": command})
    own = tmp_path / "models/c-1"
    own.mkdir(parents=True)
    (own / "report.html").touch()
    return write_report(tmp_path).read_text()


def test_the_most_suspicious_first(page: str) -> None:
    names = re.findall(r'<th scope="row">(?:<a[^>]*>)?([a-h])', page)
    assert names == ["e", "g", "c", "d", "b", "h", "f", "a"]
    assert [entry["model"][0] for entry in sorted(ROWS, key=suspicion)] == names


def test_links_lead_to_the_pages_that_there_are(page: str) -> None:
    assert re.findall(r'href="(models[^"]*)"', page) == ["models/c-1/report.html"]


def test_every_outcome_can_be_shown_alone(page: str) -> None:
    """Without a script, which the page's own policy forbids."""
    assert "<script" not in page
    kinds = re.findall(r'id="kind-(\d+)"> ([^(]*) \((\d)\)', page)
    assert kinds == [
        ("0", "backdoored", "3"),
        ("1", "inconclusive", "1"),
        ("2", "cannot be scanned", "1"),
        ("3", "timed out", "1"),
        ("4", "clean", "2"),
    ]
    for number, _, count in kinds:
        assert page.count(f'<tr class="kind-{number}">') == int(count)
        assert f"#models:has(#kind-{number}:checked) tbody tr:not(.kind-{number}) {{ display: none; }}" in page


def test_strangers_names_are_escaped_and_everything_is_counted(page: str) -> None:
    assert "<b>stop" not in page
    assert page.count("any other class → &lt;b&gt;stop&lt;/b&gt;") == 2
    assert "\u202e" not in page
    assert "<i>" not in page
    for told in ("8 models", "3 models of 8 are called backdoored", "97 %", "6 min", "3 min", "here, 2 at once", "nc"):
        assert told in page


def test_one_outcome_needs_no_filter(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "scans.json", {"models": [row("a", "clean")], "counts": {"clean": 1}})
    page = write_report(tmp_path).read_text()
    assert "radio" not in page
    assert "0 models of 1 are called backdoored." in page
