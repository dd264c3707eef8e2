from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthogon.naming import settings_of
from orthogon.scanning import SCANNERS, Calibration, fit, fit_scans, shipped
from orthogon.scanning import calibration as module

SETTINGS = {"samples": 50}
FEATURES = [{"a": x, "b": y} for x, y in ((0.1, 3.0), (0.4, 1.0), (-0.2, 2.0), (1.1, 2.5), (1.5, 1.0), (0.2, 0.5), (2.2, 2.0))]
TRUTH = [False, False, False, True, True, True, True]


def test_the_curve_is_where_the_penalised_loss_is_flat() -> None:
    """The gradient of the loss as its docstring states it, by central differences."""
    ridge = 0.7
    found = fit("nc", SETTINGS, FEATURES, TRUTH, ridge=ridge)
    names = sorted(found.weights)
    table = np.array([[row[name] for name in names] for row in FEATURES])
    steps = (table - table.mean(0)) / table.std(0)
    share = [len(TRUTH) / 2 / (sum(TRUTH) if true else len(TRUTH) - sum(TRUTH)) for true in TRUTH]

    def loss(p: np.ndarray) -> float:
        odds = p[0] + steps @ p[1:]
        losses = [w * math.log1p(math.exp(-z if true else z)) for w, z, true in zip(share, odds, TRUTH, strict=True)]
        return sum(losses) + ridge / 2 * float(p[1:] @ p[1:])

    at = np.array([found.bias, *(found.weights[name] for name in names)])
    for axis in np.eye(len(at)):
        assert abs(loss(at + 1e-4 * axis) - loss(at - 1e-4 * axis)) / 2e-4 < 1e-3
    chance = 1 / (1 + math.exp(-(found.bias + float(steps[3] @ at[1:]))))
    assert found.probability(FEATURES[3]) == pytest.approx(chance)


def test_models_are_told_by_the_others() -> None:
    found = fit("nc", SETTINGS, [{"a": v} for v in (0.0, 0.2, 0.1, 3.0, 3.2, 2.9)], [False] * 3 + [True] * 3)
    left_out = found.facts["left_out"]
    assert max(left_out[:3]) < 0.5 < min(left_out[3:])
    assert (found.facts["models"], found.facts["backdoored"]) == (6, 3)
    alone = fit("nc", SETTINGS, [{"a": v} for v in (0.0, 0.2, 2.9, 3.2, 3.0)], [False] * 2 + [True] * 3)
    without = fit("nc", SETTINGS, [{"a": v} for v in (0.0, 0.2, 2.9, 3.2)], [False] * 2 + [True] * 2)
    assert alone.facts["left_out"][4] == pytest.approx(without.probability({"a": 3.0}), abs=1e-4)


def test_json_and_back() -> None:
    found = fit("nc", SETTINGS, FEATURES, TRUTH, facts={"models_from": "the zoo"})
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ValueError, match="not a calibration"):
        Calibration.from_json({"scanner": "nc"})


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_probabilities_rise_with_a_feature_and_stay_within_their_range(value: float, more: float) -> None:
    curve = Calibration("nc", {}, 0.3, {"score": 2.0}, {"score": 1.0}, {"score": 0.5})
    low, high = curve.probability({"score": value}), curve.probability({"score": value + more})
    assert 0 <= low <= high <= 1


@pytest.mark.parametrize(
    ("features", "truth", "told"),
    [
        (FEATURES[:3], TRUTH[:2], "3 models but 2 truths"),
        (FEATURES[:4], TRUTH[:4], "two models of each kind"),
        ([*FEATURES[:6], {"a": 1.0}], TRUTH, "the same features"),
        ([*FEATURES[:6], {"a": 1.0, "b": math.nan}], TRUTH, "finite"),
    ],
)
def test_what_cannot_be_fitted(features: list[dict[str, float]], truth: list[bool], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit("nc", SETTINGS, features, truth)


def test_finished_scans_are_fitted_as_they_are() -> None:
    scores = [0.5, 0.1, 0.7, 2.0, 1.5, 0.4, 3.0]
    both = zip(FEATURES, scores, strict=True)
    draws = [[{"score": score, "features": row}, {"score": 9.0, "features": {}}] for row, score in both]
    records: list[dict[str, Any]] = [{"scanner": "nc", "settings": SETTINGS, "draws": draw} for draw in draws]
    alone = fit("nc", SETTINGS, [{"score": score} for score in scores], TRUTH, ridge=2.0)
    assert fit_scans(records, TRUTH, ridge=2.0) == alone
    assert fit_scans(records, TRUTH, names=("a", "b"), ridge=2.0) == fit("nc", SETTINGS, FEATURES, TRUTH, ridge=2.0)
    with pytest.raises(ValueError, match="one scanner with one set of settings, got 2"):
        fit_scans([*records[1:], {**records[0], "settings": {}}], TRUTH)
    with pytest.raises(ValueError, match="the scans have no features c, but a, b, score"):
        fit_scans(records, TRUTH, names=("a", "c"))
    with pytest.raises(ValueError, match="the scans 1 "):
        fit_scans([records[0], {**records[1], "draws": [{"score": None, "features": {}}]}, *records[2:]], TRUTH)


def test_a_calibration_holds_for_its_scanner_and_settings_alone() -> None:
    curve = fit("nc", SETTINGS, FEATURES, TRUTH)
    curve.require("nc", SETTINGS)
    with pytest.raises(ValueError, match="of the scanner nc, not of mm-bd"):
        curve.require("mm-bd", SETTINGS)
    with pytest.raises(ValueError, match="other settings: samples differ"):
        curve.require("nc", {"samples": 20})
    with pytest.raises(ValueError, match="b are missing or not finite"):
        curve.probability({"a": 1.0})
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        fit("nc", SETTINGS, FEATURES, TRUTH, low=0.9, high=0.2)


def test_what_ships_is_taken_where_the_settings_are_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    curve = fit("nc", SETTINGS, FEATURES, TRUTH)
    folder = tmp_path / "calibrations"
    folder.mkdir()
    (folder / "nc.json").write_text(json.dumps(curve.to_json()))
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    assert shipped("nc", SETTINGS) == curve
    assert shipped("nc", {"samples": 20}) is None
    assert shipped("mm-bd", {}) is None


def test_the_curve_of_distance_ships_for_its_defaults() -> None:
    settings = settings_of(SCANNERS["distance"]())
    curve = shipped("distance", settings)
    assert curve is not None
    assert curve.probability({"score": 0.0}) < curve.low <= 0.5 < curve.high < curve.probability({"score": 5.0})
    assert curve.facts["fitted_on"]
    assert not set(curve.facts["fitted_on"]) & set(curve.facts["judged_on"])
    assert shipped("distance", {**settings, "samples": 20}) is None
