"""The page, the tables and SARIF, from records alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orthogon import runs
from orthogon.report import write_report
from orthogon.report.scanned import read_scanned
from orthogon.report.scanned_sarif import sarif
from orthogon.report.scanned_words import fleet_table, headline, rule_words, verdict_table

PAIR = {
    "victim": None,
    "target": 1,
    "victim_name": None,
    "target_name": "<b>stop</b>\u202e",
    "score": 3.25,
    "family": None,
    "size": None,
    "unit": None,
    "success_rate": None,
}


def record(**changes: Any) -> dict[str, Any]:
    draw = {"score": 3.25, "features": {"score": 3.25}, "suspects": [PAIR], "doubts": [], "facts": {}}
    told = {"verdict": "backdoored", "probability": 0.973, "pairs": [PAIR], "reasons": ["score 3.25"], "scanner": "mm-bd"}
    told |= {"source": "Wang et al.", "settings": {"steps": 3}, "score": 3.25, "threshold": 1.3, "rule": "a rule"}
    told |= {"draws": [draw], "classes": ["go", "stop"], "model": {"name": "nets/a b.pt"}, "seconds": 200.0}
    return told | {"calibration": None, "hashes": {}, "versions": {}} | changes


def shown(table: object) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_the_page_escapes_strangers_names_and_needs_no_pictures(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "scan.json", record())
    page = write_report(tmp_path).read_text()
    assert "<b>stop" not in page
    assert "&lt;b&gt;stop" in page
    assert "\u202e" not in page
    for told in ("a b: backdoored", "97 %", "no trigger was searched", "3 min", "a rule"):
        assert told in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "clean", "pairs": []}, "no proof"),
        ({"verdict": "inconclusive"}, "The most suspicious pair is any other class → <b>stop</b>"),
        ({"verdict": "inconclusive", "pairs": []}, "cannot tell whether there is a backdoor."),
        ({}, "most likely backdoored: any other class"),
    ],
)
def test_headlines(changes: dict[str, Any], told: str) -> None:
    assert told in headline(record(**changes))[0]


def test_tables() -> None:
    told = shown(verdict_table(record(probability=None)))
    assert "Verdict: backdoored" in told
    assert "probability –; score 3.25, threshold 1.30" in told
    assert "score 3.25, judged by its probability" in shown(verdict_table(record(probability=0.9)))
    assert rule_words(record(probability=None)) == "a rule"
    assert rule_words(record(probability=0.9)) == "a rule where no calibration fits"
    rows = [
        {"model": "a.pt", "outcome": "backdoored", **record()},
        {"model": "b.pt", "outcome": "timed out", "reasons": ["not finished after 3 seconds"]},
    ]
    rows[0]["model"] = "a.pt"
    told = shown(fleet_table(rows))
    assert "1 backdoored, 1 timed out" in told
    assert "not finished after 3 seconds" in told


def test_sarif_has_a_finding_for_all_that_is_not_clean() -> None:
    rows = [{"model": "c.pt", "outcome": "timed out", "reasons": ["too slow"]}]
    found = sarif([record(), record(verdict="clean"), record(verdict="inconclusive"), *rows])
    assert found["version"] == "2.1.0"
    rules = {rule["id"] for rule in found["runs"][0]["tool"]["driver"]["rules"]}
    findings = found["runs"][0]["results"]
    assert [finding["ruleId"] for finding in findings] == ["backdoored", "inconclusive", "not-scanned"]
    assert {finding["ruleId"] for finding in findings} <= rules
    assert findings[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "nets/a%20b.pt"
    assert "too slow" in findings[2]["message"]["text"]


def test_what_is_no_scan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no scan\.json"):
        read_scanned(tmp_path)
    runs.write_json(tmp_path / "scan.json", {"verdict": "clean"})
    with pytest.raises(ValueError, match="not the record of a scan"):
        read_scanned(tmp_path)
    runs.write_json(tmp_path / "scan.json", record())
    (tmp_path / "suspects.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_scanned(tmp_path)


def test_a_run_of_several_models_that_is_not_finished_has_no_page(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "settings.json", {"command": "scan", "settings": {}})
    with pytest.raises(ValueError, match=r"has no scan\.json"):
        write_report(tmp_path)
    runs.write_json(tmp_path / "scans.json", {"models": []})
    with pytest.raises(ValueError, match="is not the record of scans: counts missing"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="holds scans of several models; each has a folder of its own"):
        read_scanned(tmp_path)


def test_the_page_tells_how_a_search_ended(tmp_path: Path) -> None:
    pair = PAIR | {"family": "patch", "outcome": "not finite"}
    runs.write_json(tmp_path / "scan.json", record(pairs=[pair]))
    page = write_report(tmp_path).read_text()
    assert "no distance: not finite" in page
    assert "asr not reached" not in page


def test_the_page_tells_what_a_size_counts(tmp_path: Path) -> None:
    pair = PAIR | {"family": "additive", "outcome": "found", "size": 3.5, "unit": "grey <levels>", "success_rate": 0.9}
    runs.write_json(tmp_path / "scan.json", record(pairs=[pair]))
    assert "additive (grey &lt;levels&gt;), score 3." in write_report(tmp_path).read_text()
