"""The page and tables of a bench of scanners, from a record that the bench itself has made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orthogon.bench.scanners import ScannerRecord, Truth, cell_of, facts_of
from orthogon.report.scanner_bench_page import (
    FILE,
    scanner_bench_markdown,
    scanner_bench_notes,
    scanner_bench_table,
    write_scanner_bench,
)

TRUTHS = {
    "clean": Truth(),
    "<two>": Truth("badnets", "patch", True, 1),
    "three": Truth("polygon", "patch", True, 1, 0),
    "four": Truth("wanet", "pervasive", None, 1),
}


def scanned(score: float | None, verdict: str, doubts: list[str]) -> dict[str, Any]:
    suspect = {"victim": None, "target": 1, "victim_name": None, "target_name": "<b>stop</b>"}
    draw = {"score": score, "features": {}, "suspects": [suspect], "doubts": doubts, "facts": {}}
    return cell_of({"verdict": verdict, "score": score, "draws": [draw], "seconds": 30.0}, "cells/x")


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    models = []
    for name, truth in TRUTHS.items():
        aim = {"target": None if truth.target is None else "stop", "victim": None if truth.victim is None else "go"}
        models.append({"model": name, "path": name, "inputs": {"model": name}, "truth": facts_of(truth), "data": "signs"} | aim)
    row = {"row": "nc", "label": "Neural Cleanse", "settings": {}, "source": "a paper", "threshold": 2.0, "rule": "a rule"}
    bench = ScannerRecord(tmp_path / "none.json", [row], models)
    bench.put("nc", "clean", scanned(1.0, "clean", []))
    bench.put("nc", "<two>", scanned(12.5, "backdoored", []))
    bench.put("nc", "three", scanned(None, "inconclusive", ["no patch in /home/me"]))
    bench.put("nc", "four", {"status": "failed", "reason": "out of memory"})
    return bench.record({"seed": 0})


def test_the_tables(record: dict[str, Any]) -> None:
    text = scanner_bench_markdown(record)
    assert "4 models: 1 clean, 2 backdoored, 1 neither." in text
    line = re.findall(r"^\| Neural Cleanse \|(.*)\|$", text, re.M)[0]
    figures = [figure.strip() for figure in line.split("|")]
    assert figures == ["0.750", "0.750", "–", "1 of 2", "0 of 1", "1 of 3", "–", "–", "–", "1 of 1", "0 of 1", "0.50", "3 of 3"]
    assert "| &lt;two&gt; | badnets | any other class → stop | backdoored, 12.5, right |" in text
    assert "| three | polygon | go → stop | inconclusive, –, target right |" in text
    assert "| four | wanet (did not take hold) | any other class → stop | failed |" in text
    assert scanner_bench_table(record).row_count == 1


def test_the_notes(record: dict[str, Any]) -> None:
    notes = "\n".join(scanner_bench_notes(record))
    assert "Neural Cleanse failed on four, which counts nowhere: out of memory" in notes
    assert "Neural Cleanse has no score for three, which ties with every other: no patch" in notes
    assert "four: its card says that no backdoor took hold" in notes
    assert "/home/me" not in scanner_bench_markdown(record)


def test_the_page_ranks_the_scores(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(record))
    page = write_scanner_bench(tmp_path).read_text()
    assert "https://" not in page
    assert "<two>" not in page
    assert "<b>stop" not in page
    assert '<td class="q0" title="Neural Cleanse, &lt;two&gt;: backdoored, score 12.5, first any other class' in page
    assert '<td class="q63" title="Neural Cleanse, clean: clean, score 1.0' in page
    assert "failed, or without a score (2)" in page
    assert "On 3 models, Neural Cleanse scores: AUC 0.750. It finds 1 of 2 backdoored models, with 0 of 1 clean ones" in page
