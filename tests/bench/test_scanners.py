"""The bench of scanners: truths of cards, the area under the curve against scipy, and the record of what is finished."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu

from orthogon.attacks import ATTACKS
from orthogon.bench.scanners import PATCH, PERVASIVE, ScannerRecord, Truth, area, cell_of, facts_of, interval, truth_of
from orthogon.scanning import fit

SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=8)


@given(SCORES, SCORES)
def test_the_area_is_the_statistic_of_mann_and_whitney(backdoored: list[float], clean: list[float]) -> None:
    expected = mannwhitneyu(backdoored, clean).statistic / (len(backdoored) * len(clean))
    assert area(backdoored, clean) == pytest.approx(expected)


def test_a_model_without_a_score_ties_with_every_other() -> None:
    assert area([3.0, math.nan], [1.0, 2.0]) == pytest.approx((1 + 1 + 0.5 + 0.5) / 4)
    assert area([3.0], [math.nan]) == 0.5


def test_the_interval_holds_what_drawn_models_give() -> None:
    """Against the area of models that are drawn one by one."""
    backdoored, clean = [0.2, 0.9, 1.5, 2.0, 3.0, 0.1], [0.0, 0.5, 1.0, 0.3]
    draws = np.random.default_rng(5)
    areas = [area(draws.choice(backdoored, 6).tolist(), draws.choice(clean, 4).tolist()) for _ in range(3000)]
    found = interval(backdoored, clean, np.random.default_rng(0))
    assert found == pytest.approx(np.quantile(areas, (0.025, 0.975)), abs=0.03)
    assert interval([1.0], clean, np.random.default_rng(0)) is None


def test_complete_separation_of_a_few_models_proves_little() -> None:
    """Three successes of three tries leave a rate of 0.29 within the exact interval (scipy.stats.binomtest)."""
    low = binomtest(3, 3).proportion_ci(method="exact").low
    assert interval([2.0, 3.0, 4.0], [0.0, 1.0, 1.5, 0.5], np.random.default_rng(0)) == pytest.approx((low, 1.0))
    assert interval([0.0, 1.0, 1.5], [2.0, 3.0, 4.0, 5.0], np.random.default_rng(0)) == pytest.approx((0.0, 1 - low))


def test_what_cards_say() -> None:
    poisoned = {"attack": {"name": "polygon", "threat": {"target": 0, "victim": 1}, "planted": True}}
    assert truth_of(poisoned) == Truth("polygon", PATCH, True, 0, 1)
    failed = {"attack": {"name": "wanet", "threat": {"target": 3, "victim": None}, "planted": False}}
    assert truth_of(failed) == Truth("wanet", PERVASIVE, None, 3, None)
    stranger = {"planted": {"stamp": "x[1:3, 1:3] = 1", "target": 2, "victims": "all other classes"}}
    assert truth_of(stranger) == Truth("x[1:3, 1:3] = 1", "other", True, 2, None)
    assert truth_of({"architecture": "resnet20"}) == Truth()
    for changed in ({"given_model": poisoned, "removal": {"method": "auto"}}, {**poisoned, "hardening": {}}):
        assert truth_of(changed) == Truth(backdoored=None)  # nobody knows what is left
    with pytest.raises(ValueError, match="no target class"):
        truth_of({"planted": {"stamp": "x"}})


def test_every_attack_of_ours_has_a_kind() -> None:
    for name in ATTACKS:
        assert truth_of({"attack": {"name": name, "threat": {"target": 0}}}).kind in (PATCH, PERVASIVE)


ROW = {"row": "nc", "label": "Neural Cleanse", "settings": {"samples": 9}, "source": "", "threshold": 2.0, "rule": ""}
TRUTHS = {
    "clean-1": Truth(),
    "clean-2": Truth(),
    "badnets": Truth("badnets", PATCH, True, 4),
    "polygon": Truth("polygon", PATCH, True, 0, 1),
    "blend": Truth("blend", PERVASIVE, True, 2),
    "failed": Truth("sig", PERVASIVE, None, 0),
}


def model(name: str, digest: str = "") -> dict[str, Any]:
    inputs = {"model": digest or name, "images": "i"}
    return {"model": name, "path": f"zoo/{name}", "inputs": inputs, "truth": facts_of(TRUTHS[name])}


def scanned(score: float | None, verdict: str, victim: int | None = None, target: int = 0) -> dict[str, Any]:
    features = {} if score is None else {"score": score}
    first = {"victim": victim, "target": target}
    draw = {"score": score, "features": features, "suspects": [first, {"victim": 3, "target": 5}], "doubts": [], "facts": {}}
    return cell_of({"verdict": verdict, "score": score, "draws": [draw], "seconds": 90.0}, "cells/x")


@pytest.fixture
def table(tmp_path: Path) -> ScannerRecord:
    record = ScannerRecord(tmp_path / "scanner-bench.json", [ROW], [model(name) for name in TRUTHS])
    record.put("nc", "clean-1", scanned(1.0, "clean"))
    record.put("nc", "clean-2", scanned(2.5, "backdoored"))
    record.put("nc", "badnets", scanned(9.0, "backdoored", None, 4))
    record.put("nc", "polygon", scanned(2.0, "clean", None, 0))
    record.put("nc", "blend", scanned(None, "inconclusive", None, 1))
    record.put("nc", "failed", scanned(50.0, "backdoored"))
    return record


def test_the_summary_by_hand(table: ScannerRecord) -> None:
    (line,) = table.record({})["summary"]
    assert line["auc"]["all"]["value"] == pytest.approx((2 + 1 + 1) / 6)
    assert line["auc"]["patch"]["value"] == pytest.approx(3 / 4)
    assert (line["auc"]["pervasive"]["value"], line["auc"]["pervasive"]["interval_95"]) == (0.5, None)
    assert (line["false_alarms"], line["found"]) == ({"count": 1, "of": 2}, {"count": 1, "of": 3})
    assert line["inconclusive"] == {"count": 1, "of": 5}
    assert line["target"] == {"count": 1, "of": 2}  # badnets, not blend
    assert line["pair"] == {"count": 0, "of": 1}  # polygon: the target alone
    assert (line["models"], line["of"], line["minutes"]) == (5, 5, 1.5)


def test_probabilities_are_those_of_the_other_models(table: ScannerRecord) -> None:
    record = table.record({})
    chances = {cell["model"]: cell["probability"] for cell in record["cells"]}
    assert (chances["blend"], chances["failed"]) == (None, None)
    curve = fit("nc", ROW["settings"], [{"score": s} for s in (1.0, 2.5, 9.0, 2.0)], [False, False, True, True])
    assert record["calibrations"]["nc"]["weights"] == pytest.approx(curve.weights)
    assert chances["badnets"] == pytest.approx(curve.facts["left_out"][2])
    facts = record["calibrations"]["nc"]["facts"]
    assert facts["names"] == ["clean-1", "clean-2", "badnets", "polygon"]
    assert facts["left_out_auc"] == area(facts["left_out"][2:], facts["left_out"][:2])


def test_what_is_finished_stays_where_it_still_holds(table: ScannerRecord, tmp_path: Path) -> None:
    path = tmp_path / "scanner-bench.json"
    path.write_text(json.dumps(table.record({})))
    again = ScannerRecord(path, [ROW | {"row": "mm-bd"}], [model("clean-1")])
    assert ("nc", "badnets") in again.cells
    assert [line["row"] for line in again.record({})["summary"]] == ["nc", "mm-bd"]
    changed = ScannerRecord(path, [ROW | {"settings": {"samples": 8}}], [])
    assert changed.cells == {}
    retrained = ScannerRecord(path, [], [model("badnets", "2")])
    assert ("nc", "badnets") not in retrained.cells
    with pytest.raises(ValueError, match=r"clean-3 is the model that the bench has as clean-1 .*counts once"):
        ScannerRecord(path, [], [model("clean-1") | {"model": "clean-3", "path": "zoo/clean-3"}])
    with pytest.raises(ValueError, match="another model called badnets"):
        ScannerRecord(path, [], [model("badnets", "2") | {"path": "elsewhere/badnets"}])


def test_too_few_models_have_no_curve(tmp_path: Path) -> None:
    record = ScannerRecord(tmp_path / "x.json", [ROW], [model("clean-1"), model("badnets")])
    record.put("nc", "clean-1", scanned(1.0, "clean"))
    record.put("nc", "badnets", {"status": "failed", "reason": "out of memory"})
    told = record.record({})
    assert told["calibrations"] == {}
    (line,) = told["summary"]
    assert (line["auc"]["all"], line["calibrated"], line["models"], line["of"]) == (None, None, 1, 2)


def test_the_ensemble_is_the_mean_of_the_log_odds_of_the_others(table: ScannerRecord, tmp_path: Path) -> None:
    path = tmp_path / "scanner-bench.json"
    path.write_text(json.dumps(table.record({})))
    both = ScannerRecord(path, [ROW | {"row": "mm-bd", "label": "MM-BD"}], [])
    scores = {"clean-1": 0.2, "clean-2": 0.1, "badnets": 3.0, "polygon": 0.4}
    for name, score in scores.items():
        both.put("mm-bd", name, scanned(score, "clean", None, 4))
    record = both.record({})
    assert [row["row"] for row in record["rows"]] == ["nc", "mm-bd", "ensemble"]
    cells = {(cell["row"], cell["model"]): cell for cell in record["cells"]}
    chances = [cells[row, "badnets"]["probability"] for row in ("nc", "mm-bd")]
    held = [min(max(p, 0.01), 0.99) for p in chances]
    expected = sum(math.log(p / (1 - p)) for p in held) / 2
    found = cells["ensemble", "badnets"]
    assert found["score"] == pytest.approx(expected)
    assert found["probability"] == pytest.approx(1 / (1 + math.exp(-expected)))
    assert (found["target_right"], found["minutes"]) == (True, 3.0)
    assert cells["ensemble", "blend"]["status"] == "waiting"
    path.write_text(json.dumps(record))
    assert list(ScannerRecord(path, [], []).rows) == ["nc", "mm-bd"]


def test_the_ensemble_leaves_out_a_member_that_has_no_score(table: ScannerRecord, tmp_path: Path) -> None:
    """As the scanner does: neural cleanse has none of the model with the blend."""
    path = tmp_path / "scanner-bench.json"
    path.write_text(json.dumps(table.record({})))
    both = ScannerRecord(path, [ROW | {"row": "mm-bd", "label": "MM-BD"}], [])
    for name, score in {"clean-1": 0.2, "clean-2": 0.1, "badnets": 3.0, "polygon": 0.4, "blend": 2.0}.items():
        both.put("mm-bd", name, scanned(score, "clean", None, 4))
    cells = {(cell["row"], cell["model"]): cell for cell in both.record({})["cells"]}
    assert cells["nc", "blend"]["probability"] is None
    assert cells["ensemble", "blend"]["status"] == "finished"
    assert cells["ensemble", "blend"]["probability"] == pytest.approx(cells["mm-bd", "blend"]["probability"])
