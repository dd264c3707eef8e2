"""The yardstick and the figures read off it; the scripts themselves are run by hand, for minutes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.inversion import Request, invert
from orthogon.pairs import Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Patch


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Import one of the scripts, which are no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module


@pytest.fixture
def yardstick(load) -> ModuleType:
    return load("yardstick")


def problem(generator: torch.Generator) -> tuple[Classifier, torch.Tensor]:
    """A linear classifier of three 6×6 templates, and 40 noisy images of the first class (bytes)."""
    templates = torch.rand(3, 3, 6, 6, generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    weights = 2 * templates.flatten(1) - 1
    network[1].weight.data.copy_(weights)  # type: ignore[operator]
    network[1].bias.data.copy_(-(weights * 0.5).sum(1))  # type: ignore[operator]
    noise = 0.1 * torch.randn(40, 3, 6, 6, generator=generator)
    pixels = ((0.7 * templates[0] + 0.15 + noise).clamp(0, 1) * 255).byte()
    return Classifier(network, ["a", "b", "c"], (3, 6, 6)).eval(), pixels


def test_the_yardstick_finds_what_the_library_finds(yardstick: ModuleType, generator: torch.Generator) -> None:
    classifier, pixels = problem(generator)
    settings = yardstick.YardstickSettings(epochs=350, restarts=1)
    found = yardstick.search_pair(classifier, pixels.float() / 255, 1, settings, seed=0)
    stage = Stage(restarts=2, steps=400, batch=20, rates=(0.2, 0.02), accept_every=10)
    engine = Engine(classifier, pixels[None], InversionSettings((stage,)), Speed(torch.float32, compile=False))
    (ours,) = invert(engine, Patch(), [Request(Pair(0, 1), 0, 0)])
    assert ours.outcome is Outcome.FOUND
    assert found.honest.asr[-1] >= 0.9
    assert 0 < ours.size < 108
    assert found.honest.size == pytest.approx(ours.size, rel=0.25)
    assert found.own.size == pytest.approx(ours.size, rel=0.25)
    assert found.image_steps == 350 * 40
    for curve in (found.own, found.honest):
        assert curve.sizes == sorted(curve.sizes, reverse=True)
        assert curve.seconds == sorted(curve.seconds)
        assert curve.seconds_to(curve.size) == curve.seconds[-1] <= found.seconds
        assert curve.seconds_to(curve.size / 2) == math.inf
    again = yardstick.Found.from_json(found.to_json())
    assert vars(again.honest) == vars(found.honest)


def test_a_budget_is_read_off_the_mean_of_all_pairs(load, yardstick: ModuleType) -> None:
    matrix = load("time_to_matrix")
    fast = yardstick.Curve(seconds=[1.0, 3.0], sizes=[50.0, 30.0])
    slow = yardstick.Curve(seconds=[2.0, 6.0], sizes=[60.0, 40.0])
    assert matrix.budget_to([fast, slow], 55) == 2
    assert matrix.budget_to([fast, slow], 45) == 3
    assert matrix.budget_to([fast, slow], 35) == 6
    assert matrix.budget_to([fast, slow], 34.9) == math.inf
    assert matrix.budget_to([fast, yardstick.Curve()], 100) == math.inf


def test_a_matrix_agrees_with_itself_and_misses_are_said(load) -> None:
    compare = load("published").compare
    values = torch.tensor([[math.nan, 10.0, 20.0], [30.0, math.nan, 40.0], [50.0, 60.0, math.nan]])
    outcomes = [["found" if v == v else None for v in row] for row in values.tolist()]
    measured = {"values": 1.1 * values, "asr": torch.full((3, 3), 0.95), "outcomes": outcomes}
    result = compare(measured, {"values": values}, only_measured=False)
    assert result["mean_ratio"] == pytest.approx(1.1)
    assert result["spearman"] == pytest.approx(1)
    assert result["lowest_asr"] == pytest.approx(0.95)
    assert result["outcomes"] == {"found": 6}
    measured["values"][0, 1] = math.nan
    with pytest.raises(ValueError, match="1 published pairs have no measured distance"):
        compare(measured, {"values": values}, only_measured=False)
    assert compare(measured, {"values": values}, only_measured=True)["pairs"] == 5


def test_the_limit_counts_every_convolution(load) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 4, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    classifier = Classifier(network, list("abcd"), (3, 8, 8)).eval()
    limit = load("limit").convolution_limit(classifier, torch.float32, 4, seconds=0.005)
    assert [row["count"] for row in limit.rows] == [1, 2, 1]
    assert limit.images_per_second > 0
