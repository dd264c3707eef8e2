from __future__ import annotations

import json
import math

import pytest
import torch

from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.scanning import SCANNERS, Calibration, Decision, Evidence, Suspect, judged
from orthogon.scanning.neural_cleanse import NeuralCleanse

NC = NeuralCleanse()
SETTINGS = dict(vars(NC))
CURVE = Calibration("nc", SETTINGS, 0.0, {"score": 1.0}, {"score": 0.0}, {"score": 1.0}, low=0.3, high=0.7, facts={"models": 9})


def found(score: float, *doubts: str) -> Evidence:
    trigger = Inversion(Pair(None, 1), Outcome.FOUND, 4.0, 0.95, {"mask": torch.zeros(1, 2, 2)})
    suspects = (Suspect(Pair(None, 1), score, "patch", trigger), Suspect(Pair(0, 2), score - 1.0))
    return Evidence(score, suspects, {"score": score}, {"sizes": [1.0]}, doubts)


@pytest.mark.parametrize(
    ("evidence", "calibration", "decision", "probability", "named"),
    [
        ([found(2.5)], None, Decision.BACKDOORED, None, 1),
        ([found(3.5)], None, Decision.BACKDOORED, None, 2),
        ([found(2.0)], None, Decision.CLEAN, None, 0),
        ([found(1.0, "one class has no images")], None, Decision.INCONCLUSIVE, None, 1),
        ([found(2.5, "one class has no images")], None, Decision.BACKDOORED, None, 1),
        ([Evidence(math.nan, doubts=("too few classes",))], None, Decision.INCONCLUSIVE, None, 0),
        ([found(2.5), found(1.5)], None, Decision.INCONCLUSIVE, None, 1),
        ([found(2.0)], CURVE, Decision.BACKDOORED, 1 / (1 + math.exp(-2)), 1),
        ([found(0.0)], CURVE, Decision.INCONCLUSIVE, 0.5, 1),
        ([found(-1.0)], CURVE, Decision.CLEAN, 1 / (1 + math.exp(1)), 0),
        ([found(-1.0), found(-2.0)], CURVE, Decision.CLEAN, (1 / (1 + math.exp(1)) + 1 / (1 + math.exp(2))) / 2, 0),
        ([Evidence(math.nan, doubts=("too few classes",))], CURVE, Decision.INCONCLUSIVE, None, 0),
    ],
)
def test_decisions(
    evidence: list[Evidence], calibration: Calibration | None, decision: Decision, probability: float | None, named: int
) -> None:
    verdict = judged(NC, evidence, calibration)
    assert verdict.decision is decision
    assert verdict.probability == (None if probability is None else pytest.approx(probability))
    assert len(verdict.suspects) == named
    assert verdict.reasons


def test_reasons_tell_why() -> None:
    assert "no calibration fits" in " ".join(judged(NC, [found(1.0)]).reasons)
    assert "the draws disagree: 1 clean, 1 backdoored" in judged(NC, [found(2.5), found(1.5)]).reasons
    assert "one class has no images" in judged(NC, [found(1.0, "one class has no images")]).reasons
    between = judged(NC, [found(0.0)], CURVE).reasons
    assert between[0] == "probability 50.0%; up to 30% counts as clean, from 70% as backdoored"
    assert between[1].endswith(" where no calibration fits")
    assert "the probability lies between the bounds" in between
    assert judged(NC, [found(1.0), found(4.0), found(3.0)]).score == 3.0


def test_json_holds_all_but_the_triggers() -> None:
    verdict = judged(NC, [found(2.5), Evidence(math.nan, doubts=("too few",))])
    record = json.loads(json.dumps(verdict.to_json(("a", "b", "c")), allow_nan=False))
    assert (record["verdict"], record["probability"], record["scanner"]) == ("inconclusive", None, "nc")
    pair = record["draws"][0]["suspects"][0]
    assert (pair["victim"], pair["target"], pair["target_name"], pair["size"]) == (None, 1, "b", 4.0)
    assert pair["unit"] == "mask L1, summed over channels"
    assert record["draws"][1]["score"] is None
    assert record["draws"][0]["facts"] == {"sizes": [1.0]}


def test_misuse() -> None:
    with pytest.raises(ValueError, match="got none"):
        judged(NC, [])
    with pytest.raises(ValueError, match="calibrated with other settings"):
        judged(NeuralCleanse(samples=3), [found(1.0)], CURVE)


@pytest.mark.parametrize("name", SCANNERS)
def test_every_scanner_says_what_it_is(name: str) -> None:
    scanner = SCANNERS[name]()
    assert scanner.name == name
    assert scanner.source
    assert math.isfinite(scanner.threshold)
    assert "above" in scanner.rule
