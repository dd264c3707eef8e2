from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orthogon.report import model_card, write_card

from .test_page import HOSTILE, UNIVERSAL


def test_the_json_round_trips_and_agrees_with_the_run(run_of: Callable[..., Path]) -> None:
    folder = run_of(failed={(0, 1): "asr not reached"})
    _, path = write_card(folder)
    data, record = json.loads(path.read_text()), json.loads((folder / "distances.json").read_text())
    assert data == model_card(folder)[1]
    assert (data["unit"], data["protocol"], data["family"]) == (record["unit"], record["protocol"], record["family"])
    values = [v for row in record["values"] for v in row if v is not None]
    assert data["mean"] == pytest.approx(sum(values) / len(values))
    assert data["pairs"] == {"measured": 90, "found": 89, "failed": {"asr not reached": 1}}
    assert [pair["distance"] for pair in data["smallest"]] == pytest.approx(sorted(values)[:5])
    assert data["values"][0][1] is None


def test_the_markdown_has_tables_of_even_width(run_of: Callable[..., Path]) -> None:
    folder = run_of(5, classes=HOSTILE)
    text = write_card(folder)[0].read_text(encoding="utf-8")
    assert text.startswith("## Class distances\n")
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert widths == sorted(widths, key=lambda width: (3, 6, 7).index(width))
    assert "<script>" not in text
    assert "mask L1, summed over channels" in text


def test_a_large_matrix_stays_in_the_json(run_of: Callable[..., Path]) -> None:
    text, data = model_card(run_of(43))
    assert "### All pairs" not in text
    assert len(data["values"]) == 43


def test_a_card_does_not_tell_whose_disk_it_was(run_of: Callable[..., Path]) -> None:
    text, data = model_card(run_of())
    assert "alice" not in text + json.dumps(data)
    assert data["model"]["path"] == "net.safetensors"


def test_universal_triggers_are_published_too(run_of: Callable[..., Path]) -> None:
    text, data = model_card(run_of(3, values=[[None] * 3] * 3, universal=UNIVERSAL, pictures=False))
    assert data["universal"] == [
        {"target": "class 2", "size": 66.0, "asr": 0.91, "outcome": "found"},
        {"target": "class 0", "size": 123.4, "asr": 0.95, "outcome": "found"},
        {"target": "class 1", "size": None, "asr": 0.5, "outcome": "asr not reached"},
    ]
    assert "The smallest universal trigger makes any other class class 2" in text
    assert "| any other class | class 2 | 66.0 | ≈ 22 of 144 pixels | 91 % |" in text
    assert "| Universal triggers | 2 (of 3 searched) |" in text
    assert "No pair" not in text
    assert "universal" not in json.dumps(model_card(run_of())[1])


def test_pairs_and_universal_triggers_stand_in_one_card(run_of: Callable[..., Path]) -> None:
    text, data = model_card(run_of(universal=UNIVERSAL))
    assert len(data["smallest"]) == 5
    assert [text.count(head) for head in ("### Closest pairs", "### All pairs", "### Smallest universal triggers")] == [1, 1, 1]
    assert "| Pairs with a distance | 90 (of 90 measured) |" in text
