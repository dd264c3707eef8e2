from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from orthogon.report import compare, comparison_table, distance_table, evaluation_table, pairs_table, universal_table
from orthogon.report.reading import read_run

from .test_page import UNIVERSAL


def _printed(table: Table) -> str:
    file = io.StringIO()
    Console(width=160, file=file).print(table)
    return file.getvalue()


def test_a_small_matrix_is_shown_whole(run_of: Callable[..., Path]) -> None:
    matrix = read_run(run_of(failed={(0, 1): "asr not reached"})).matrix
    text = _printed(distance_table(matrix))
    assert all(f"{v:.1f}" in text for v in matrix.values[matrix.values.isfinite()].tolist())
    assert "none" in text
    assert "nan" not in text


def test_a_large_one_by_its_smallest_pairs(run_of: Callable[..., Path]) -> None:
    text = _printed(distance_table(read_run(run_of(43)).matrix, smallest=7))
    assert "7 of 1,806 pairs" in text


def test_universal_triggers_have_a_table(run_of: Callable[..., Path]) -> None:
    text = _printed(universal_table(read_run(run_of(universal=UNIVERSAL)).matrix))
    assert text.index("66.0") < text.index("123.4")
    assert "2 of 3 targets, 1 without a distance" in text
    assert "any other class" in text


def test_names_are_no_markup(run_of: Callable[..., Path]) -> None:
    text = _printed(pairs_table(read_run(run_of(2, classes=["[red]", "\x1b[31mb"])).matrix))
    assert "[red]" in text
    assert "\x1b" not in text


def test_a_comparison_names_the_least_gain_first(run_of: Callable[..., Path]) -> None:
    one = run_of(2, "one", values=[[None, 10.0], [20.0, None]])
    other = run_of(2, "other", values=[[None, 20.0], [10.0, None]])
    text = _printed(comparison_table(compare(one, other)))
    assert text.index("-50.0 %") < text.index("+100.0 %") < text.index("+25.0 %")


def test_brackets_in_what_is_told_around_a_table_are_text(run_of: Callable[..., Path]) -> None:
    one = run_of(2, "one", data="folder images [first:2000]", unit="[bold]pixels")
    other = run_of(2, "other", data="folder images [/old]", unit="[bold]pixels")
    text = " ".join(_printed(comparison_table(compare(one, other))).split())
    assert "The runs differ in data: folder images [first:2000] before, folder images [/old] after." in text
    assert "Before and after ([bold]pixels)" in text
    matrix = read_run(one).matrix
    assert all("([bold]pixels)" in _printed(table) for table in (distance_table(matrix), pairs_table(matrix)))


def test_a_class_without_images_has_no_accuracy() -> None:
    text = _printed(evaluation_table(["a", "b", "c"], [0.5, None, math.nan], [4, 0, 0], 0.5))
    assert text.count("–") == 2
    assert "nan" not in text


def test_accuracies_are_shares(run_of: Callable[..., Path]) -> None:
    text = _printed(evaluation_table(["a", "b"], [0.5, None], [4, 0], 0.5, robust=0.25))
    assert "50.00 %" in text
    assert "25.00 %" in text
    with pytest.raises(ValueError, match="2 classes, but 1 accuracies"):
        evaluation_table(["a", "b"], [0.5], [4, 0], 0.5)
