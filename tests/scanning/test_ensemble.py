"""The ensemble: members whose scores and calibrations are known, and what they come to together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.naming import settings_of
from orthogon.scanning import Calibration, Decision, calibration, scan
from orthogon.scanning.ensemble import Ensemble, log_odds
from orthogon.scanning.mm_bd import MMBD
from orthogon.scanning.neural_cleanse import NeuralCleanse

Toy = Callable[..., Classifier]
CHANGES = ("nc.protocol=screen", "nc.samples=8", "mm-bd.starts=2", "mm-bd.steps=4")
BOTH = Ensemble(("nc", "mm-bd"), CHANGES)
MEMBERS = (NeuralCleanse("screen", samples=8), MMBD(starts=2, steps=4))


def test_without_calibrations_the_loudest_alarm_counts(toy: Toy, rows: LabelledImages, short: None) -> None:
    draws = torch.Generator().manual_seed(3)
    alone = [scan(toy(target=2), rows, member, draws) for member in MEMBERS]
    verdict = scan(toy(target=2), rows, BOTH, torch.Generator().manual_seed(3))
    margins = [one.score - member.threshold for one, member in zip(alone, MEMBERS, strict=True)]
    assert verdict.score == pytest.approx(max(margins))
    assert verdict.suspects[0].pair.target == 2
    assert verdict.decision is Decision.BACKDOORED
    assert "largest score, less its own threshold" in verdict.reasons[0]
    assert settings_of(BOTH) == {"scanners": ["nc", "mm-bd"], "changes": list(CHANGES)}


def test_with_calibrations_the_mean_of_the_log_odds(
    toy: Toy, rows: LabelledImages, short: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "calibrations"
    folder.mkdir()
    for member, bias in zip(MEMBERS, (-3.0, 1.0), strict=True):
        curve = Calibration(member.name, settings_of(member), bias, {"score": 0.0}, {"score": 0.0}, {"score": 1.0})
        (folder / f"{member.name}.json").write_text(json.dumps(curve.to_json()))
    monkeypatch.setattr(calibration, "files", lambda package: tmp_path)
    verdict = scan(toy(target=2), rows, BOTH, torch.Generator().manual_seed(3))
    assert verdict.score == pytest.approx(-1.0)
    assert [suspect.score for suspect in verdict.evidence[0].suspects] == pytest.approx([1.0, -3.0])
    assert "mean log-odds of nc, mm-bd" in verdict.reasons[0]


class _NotFinite(torch.nn.Module):
    """The last class's logit is NaN on every image but those whose corner is dark, as a rare fault would have it."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.inner(images).clone()
        logits[:, -1] = torch.where(images[:, 0, -1, -1] > 0, math.nan, logits[:, -1])
        return logits


def test_a_member_that_cannot_tell_is_left_out_and_told(toy: Toy, rows: LabelledImages, short: None) -> None:
    subject = toy()
    broken = Classifier(_NotFinite(subject.network), subject.classes, subject.image_shape).eval()
    verdict = scan(broken, rows, Ensemble(("mm-bd",), CHANGES[2:]), torch.Generator().manual_seed(0))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "mm-bd: the margin of a class is not finite" in verdict.reasons


def test_log_odds_of_probabilities_at_the_ends() -> None:
    assert log_odds(0.5) == 0
    assert log_odds(0.9) == pytest.approx(math.log(9))
    assert log_odds(0.0) == pytest.approx(-log_odds(1.0))
    assert math.isfinite(log_odds(1.0))


@pytest.mark.parametrize(
    ("scanners", "changes", "told"),
    [
        ((), (), "must name one or more"),
        (("nc", "nc"), (), "each once"),
        (("nx",), (), "'nx' is no scanner"),
        (("nc",), ("mm-bd.steps=2",), "is no SCANNER.NAME=VALUE of nc"),
        (("nc",), ("nc.sample=2",), "setting 'sample=2'"),
        (("ensemble",), (), "'ensemble' is no scanner"),
    ],
)
def test_settings_out_of_range(scanners: tuple[str, ...], changes: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Ensemble(scanners, changes)
