"""The distance matrix, its record, and Eq. 8."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orthogon.matrix import DistanceMatrix, improvement

NAN = math.nan


def _matrix(values: Sequence[Sequence[float]], **changes: Any) -> DistanceMatrix:
    grid = torch.tensor(values)
    outcomes = tuple(tuple(None if math.isnan(v) else "found" for v in row) for row in values)
    names = tuple("abcdefgh"[: len(values)])
    plain = DistanceMatrix(grid, grid / 100, grid / 10, outcomes, names, "pixels", "fast", "patch", {"seed": 3})
    return replace(plain, **changes)


BEFORE = _matrix([[NAN, 10.0, 20.0], [40.0, NAN, 50.0], [8.0, NAN, NAN]])


def test_the_mean_is_over_the_pairs_that_have_a_distance() -> None:
    assert BEFORE.mean() == pytest.approx((10 + 20 + 40 + 50 + 8) / 5)
    assert math.isnan(_matrix([[NAN, NAN], [NAN, NAN]]).mean())


def test_improvement_is_equation_8() -> None:
    """Worked by hand: +100 %, +50 %, -25 % and 0 % over the four pairs that both have."""
    after = _matrix([[NAN, 20.0, 30.0], [30.0, NAN, 50.0], [NAN, 70.0, NAN]])
    assert improvement(BEFORE, after) == pytest.approx((1.0 + 0.5 - 0.25 + 0.0) / 4)
    assert improvement(BEFORE, BEFORE) == 0.0


def test_a_distance_of_nothing_has_no_relative_increase() -> None:
    before, after = _matrix([[NAN, 0.0], [10.0, NAN]]), _matrix([[NAN, 5.0], [15.0, NAN]])
    assert improvement(before, after) == pytest.approx(0.5)
    assert improvement(_matrix([[NAN, 0.0], [0.0, NAN]]), _matrix([[NAN, 0.0], [5.0, NAN]])) != 0.0


def test_no_pair_in_common_is_no_improvement() -> None:
    assert math.isnan(improvement(_matrix([[NAN, 1.0], [NAN, NAN]]), _matrix([[NAN, NAN], [1.0, NAN]])))


@pytest.mark.parametrize(("name", "value"), [("unit", "fields"), ("family", "colour"), ("classes", ("a", "b", "another"))])
def test_matrices_of_different_things_are_not_compared(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"different {name}"):
        improvement(BEFORE, replace(BEFORE, **{name: value}))


def _assert_same_matrix(one: DistanceMatrix, other: DistanceMatrix) -> None:
    for name in ("values", "asr", "spread"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), equal_nan=True, atol=0, rtol=0)
    for name in ("outcomes", "classes", "unit", "protocol", "family", "facts"):
        assert getattr(one, name) == getattr(other, name)


def test_a_matrix_survives_its_record() -> None:
    matrix = replace(BEFORE, facts={"seconds": 3.5, "model": {"path": "x"}, "universal": []})
    text = json.dumps(matrix.to_json(), allow_nan=False)
    _assert_same_matrix(DistanceMatrix.from_json(json.loads(text)), matrix)


def test_the_record_is_the_contract_s() -> None:
    record = BEFORE.to_json()
    assert record["values"] == [[None, 10.0, 20.0], [40.0, None, 50.0], [8.0, None, None]]
    assert record["outcomes"][2] == ["found", None, None]
    assert record["classes"] == ["a", "b", "c"]
    assert (record["unit"], record["protocol"], record["family"], record["seed"]) == ("pixels", "fast", "patch", 3)


def test_infinity_is_no_distance_in_the_record() -> None:
    assert _matrix([[NAN, math.inf], [1.0, NAN]]).to_json()["values"] == [[None, None], [1.0, None]]


def test_values_alone_are_a_matrix() -> None:
    record = {"classes": ["a", "b"], "values": [[None, 2], [3.5, None]], "unit": "u", "protocol": "p", "family": "f"}
    matrix = DistanceMatrix.from_json(record)
    assert matrix.outcomes == ((None, "found"), ("found", None))
    assert matrix.mean() == 2.75
    assert matrix.asr.isnan().all()
    assert matrix.spread.isnan().all()
    assert matrix.facts == {}


def test_a_record_s_diagonal_is_no_distance() -> None:
    record = {"classes": ["a", "b"], "values": [[0, 20], [10, 0]], "unit": "u", "protocol": "p", "family": "f"}
    for outcomes in (None, [["found", "found"], ["found", "found"]]):
        matrix = DistanceMatrix.from_json(record | {"outcomes": outcomes})
        assert matrix.outcomes == ((None, "found"), ("found", None))
        assert matrix.mean() == 15.0


def test_a_record_s_value_of_a_pair_that_was_not_found_is_no_distance() -> None:
    record = BEFORE.to_json() | {"outcomes": [[None, "found", "found"], ["asr not reached", None, "found"], [None, None, None]]}
    matrix = DistanceMatrix.from_json(record)
    assert matrix.to_json()["values"] == [[None, 10.0, 20.0], [None, None, 50.0], [None, None, None]]
    after = replace(BEFORE, values=torch.where(BEFORE.values == 40, 400, BEFORE.values))
    assert improvement(matrix, after) == 0.0


def test_the_published_matrix_is_read(shared: Path) -> None:
    """The authors' file gives values, unit and protocol; who reads it adds the classes' names and the family."""
    published = json.loads((shared / "models" / "moth_resnet20_nat.distance.json").read_text(encoding="utf-8"))
    names = [str(c) for c in range(10)]
    matrix = DistanceMatrix.from_json({"classes": names, "family": "patch", **published})
    assert matrix.mean() == pytest.approx(published["mean"], rel=1e-6)
    assert sum(outcome == "found" for row in matrix.outcomes for outcome in row) == 90
    assert float(matrix.values[0, 1]) == pytest.approx(42.749416)  # rows are victims
    assert improvement(matrix, replace(matrix, values=matrix.values * 1.5)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"values": [[None, 1.0]]}, ValueError),
        ({"values": [[None, 1.0], [1.0]]}, ValueError),
        ({"values": [[None, "wide"], [1.0, None]]}, ValueError),
        ({"values": 7}, TypeError),
        ({"asr": [[None]]}, ValueError),
        ({"outcomes": [["found"]]}, ValueError),
        ({"classes": None}, TypeError),
    ],
)
def test_a_record_that_is_none_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    record = _matrix([[NAN, 1.0], [2.0, NAN]]).to_json()
    with pytest.raises(error):
        DistanceMatrix.from_json(record | changes)


@pytest.mark.parametrize("name", ["classes", "values", "unit", "protocol", "family"])
def test_a_record_that_lacks_what_it_needs_names_it(name: str) -> None:
    record = _matrix([[NAN, 1.0], [2.0, NAN]]).to_json()
    del record[name]
    with pytest.raises(KeyError, match=name):
        DistanceMatrix.from_json(record)
