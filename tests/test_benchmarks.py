"""The yardstick and the figures read off it; the scripts themselves are run by hand, for minutes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from orthogon.attacks import ATTACKS
from orthogon.classifier import Classifier
from orthogon.data.signs import signs
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.inversion import Request, invert
from orthogon.pairs import Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Colour, Patch
from orthogon.triggers.decoder import open_decoder
from orthogon.triggers.encoder import open_encoder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Import one of the scripts, which are no package."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module


@pytest.fixture
def yardstick(load) -> ModuleType:
    return load("yardstick")


def templates_of(classifier: Classifier) -> torch.Tensor:
    """The templates (3, 3, 6, 6) of `problem`."""
    return ((classifier.network[1].weight.detach() + 1) / 2).view(3, 3, 6, 6)  # type: ignore[index]


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
    limit = load("limit").convolution_limit(classifier, torch.zeros(1, *classifier.image_shape), torch.float32, 4, seconds=0.005)
    assert [row["count"] for row in limit.rows] == [1, 2, 1]
    assert limit.images_per_second > 0


def test_the_limit_takes_a_transposed_convolution_as_the_one_of_its_shapes(load) -> None:
    network = nn.Sequential(
        nn.ConvTranspose2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 5, padding=2), nn.ConvTranspose2d(3, 8, 3, padding=1)
    )
    limit = load("limit").convolution_limit(network, torch.zeros(1, 3, 8, 8), torch.float32, 4, seconds=0.005, weights=True)
    assert [(row["count"], row["weight"]) for row in limit.rows] == [(2, [8, 3, 3, 3]), (1, [3, 8, 5, 5])]
    with pytest.raises(ValueError, match="stride 1 alone"):
        load("limit").convolution_limit(nn.ConvTranspose2d(3, 8, 2, stride=2), torch.zeros(1, 3, 8, 8), torch.float32, 4)


def test_the_limit_of_a_pervasive_search_has_every_part_of_a_step(load) -> None:
    encoder = open_encoder("embedded")
    classifier = Classifier(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), list("abcd"), (3, 16, 16)
    ).eval()
    told = (classifier, encoder, open_decoder(encoder), torch.float32, 4, 2)
    seconds = load("pervasive_limit").seconds_by_part(*told, seconds=0.005)
    assert list(seconds) == ["encoder, twice", "regions", "decoder", "model"]
    assert all(0 < value < 1 for value in seconds.values())
    assert seconds["encoder, twice"] > seconds["model"]


TINY = {"warm_up_inversion": 3, "first_inversion": 4, "inversion": 2, "prior_samples": 4, "shift": 0.1}


def signs_subject() -> tuple[Classifier, LabelledImages]:
    """A small untrained network with BatchNorm, and 128 signs of each of three classes."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )
    images = signs(classes=3, size=16, per_class=128)
    return Classifier(network, images.classes, (3, 16, 16)).eval(), images


@pytest.fixture
def loop(load) -> Callable[..., Any]:
    """The yardstick of hardening, with short searches."""
    yardstick = load("yardstick_hardening")

    def made(**settings: Any) -> Any:
        return yardstick.HardeningLoop(*signs_subject(), yardstick.LoopSettings(**{**TINY, **settings}), seed=0)

    return made


def test_the_yardstick_of_hardening_warms_up_then_trains_a_copy_pair_by_pair(loop: Callable[..., Any]) -> None:
    original, _ = signs_subject()
    running = loop()
    for _ in range(3):
        assert running.warming
        before = running.stamped
        running.update()
        assert 30 < running.stamped - before < 55  # half of the other classes' share of 128 samples
    assert not running.warming
    assert running.prior.diagonal().eq(0).all()
    assert (running.prior + torch.eye(3)).ne(0).all()
    pairs, before = [], running.stamped
    for _ in range(6):
        running.update()
        pairs.append(running.pair)
    assert pairs[:3] == [pairs[0]] * 3
    assert pairs[3:] == [pairs[3]] * 3
    assert all(a < b for a, b in pairs)
    assert 6 * 2 <= running.stamped - before <= 6 * 2 * 5  # a tenth of the samples of the smaller class, of each class
    assert running.growth[pairs[0]] != 0 or not running.known[pairs[0]].found[0]
    for name, tensor in running.classifier.network.state_dict().items():
        assert not torch.equal(tensor, original.network.state_dict()[name]), name  # the statistics of BatchNorm, too


def test_the_yardstick_of_hardening_searches_both_directions_of_a_pair_in_one_batch(loop: Callable[..., Any]) -> None:
    running = loop()
    while running.warming:
        running.update()
    searched: list[int] = []
    running.classifier.register_forward_pre_hook(
        lambda module, given: None if module.training else searched.append(len(given[0]))
    )
    for _ in range(2):
        running.update()
    assert len(searched) == 4 + 2  # a new trigger's steps, then a reused one's: not twice as many, one per direction
    a, b = running.pair
    rows = torch.tensor([0, 1, 2, 0, 1, 2] * 5)
    images = running.pixels[: len(rows)].float() / 255
    members = [(rows == c).nonzero().flatten() for c in (a, b)]
    searched.clear()
    running._both(images, members)
    assert searched == [20, 20]  # ten samples of each class in every step
    known = running.known[a, b]
    assert known.mask.shape == (2, 1, 16, 16)
    assert not torch.equal(known.mask[0], known.mask[1])
    stamped = known.stamp(images[:2], torch.tensor([0, 1]))
    for number in (0, 1):
        mask, pattern = known.mask[number], known.pattern[number]
        assert torch.allclose(stamped[number], images[number] * (1 - mask) + mask * pattern)


def test_the_two_sided_search_turns_both_classes_of_a_pair(load, generator: torch.Generator) -> None:
    module, yardstick = load("yardstick_hardening"), load("yardstick")
    classifier, pixels = problem(generator)
    first = pixels.float() / 255
    images = torch.cat([first, (first - first.mean(0) + 0.7 * templates_of(classifier)[1] + 0.15).clamp(0, 1)])
    which = torch.arange(2).repeat_interleave(40)
    assert classifier(images).argmax(1).tolist() == which.tolist()
    start = module.Triggers(
        torch.rand(2, 1, 6, 6, generator=generator), torch.rand(2, 3, 6, 6, generator=generator), (False,) * 2
    )
    settings = yardstick.YardstickSettings(epochs=200, batch=80, weight=0.001)
    classifier.requires_grad_(False)
    for loss in ("cross entropy", "swapped"):
        made = module.Inversion(classifier, images, which, 1 - which, start, settings, loss, generator).run()
        turned = classifier(made.stamp(images, which)).argmax(1) == 1 - which
        assert made.found == (True, True)
        assert min(turned[:40].float().mean(), turned[40:].float().mean()) >= 0.9
        assert made.sizes == pytest.approx([3 * float(mask.sum()) for mask in made.mask])
        assert max(made.sizes) < 60  # of 108


def test_the_yardstick_of_hardening_goes_on_as_if_never_interrupted(load, loop: Callable[..., Any], tmp_path: Path) -> None:
    bench = load("time_to_distance")
    whole, reached = loop(), []
    for _ in range(7):
        whole.update()
    killed, identity = loop(), {"seed": 0}
    for _ in range(5):
        killed.update()
    killed.seconds, checkpoint = 1e6, tmp_path / "checkpoint.safetensors"
    bench.run_yardstick(killed, [1.0], checkpoint, identity, reached.append)
    assert reached == [1.0]
    resumed = loop()
    bench.restore(resumed, checkpoint, identity)
    assert (resumed.seconds, resumed.updates) == (1e6, 5)
    for _ in range(2):
        resumed.update()
    # Two threads of float32 may add up in another order; a state that was lost would show in the first digits.
    for name, tensor in whole.classifier.network.state_dict().items():
        torch.testing.assert_close(resumed.classifier.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert [entry[:2] for entry in resumed.state()[1]["known"]] == [entry[:2] for entry in whole.state()[1]["known"]]
    with pytest.raises(ValueError, match="another run"):
        bench.restore(loop(), checkpoint, {"seed": 1})


def test_times_to_the_same_increase_count_only_models_within_the_bound(load) -> None:
    bench = load("time_to_distance")
    sizes = {"original": (10.0, 20.0), "yardstick 1": (11.0, 22.0), "yardstick 2": (10.5, 21.0), "yardstick 3": (15.0, 30.0)}
    sizes |= {"yardstick 4": (40.0, 80.0), "ours 1": (12.0, 24.0), "ours 2": (20.0, None)}
    facts = {"original": (0, 0.90), "yardstick 1": (60, 0.90), "yardstick 2": (120, 0.90), "yardstick 3": (180, 0.895)}
    facts |= {"yardstick 4": (240, 0.88), "ours 1": (30, 0.893), "ours 2": (90, 0.895)}
    parts: dict[str, Any] = {name: {"seconds": s, "accuracy": a} for name, (s, a) in facts.items()}
    for name, both in sizes.items():
        parts[f"distances {name}"] = {pair: {"size": size} for pair, size in zip(("0-1", "1-0"), both, strict=True)}
    summary = bench.summarised(parts, [Pair(0, 1), Pair(1, 0)], 0.01)
    assert [point["within"] for point in summary["curves"]["yardstick"]] == [True, True, True, False]
    first, last = summary["reached"]
    assert (first["seconds"], first["increase"]) == (60, pytest.approx(0.1))
    assert first["ratio"] == pytest.approx(2)  # ours of 30 s, +20 %
    assert math.isnan(first["ratio_no_less_accurate"])  # both of ours are less accurate
    assert (last["seconds"], last["increase"]) == (180, pytest.approx(0.5))
    assert summary["our_best_increase"] == pytest.approx(1.0)  # of the pair that it has
    assert summary["ratio"] == summary["ratio_no_less_accurate"] == pytest.approx(2)
    parts["ours 2"]["accuracy"] = 0.889
    assert math.isnan(bench.summarised(parts, [Pair(0, 1), Pair(1, 0)], 0.01)["ratio"])


def test_stamps_are_compared_in_grey_levels(load, generator: torch.Generator) -> None:
    module = load("sig_inversion")
    pixels = torch.randint(20, 200, (7, 3, 4, 5), dtype=torch.uint8, generator=generator)
    clean = LabelledImages(pixels, torch.zeros(7, dtype=torch.int64), ("a", "b"), "drawn")
    stripes = torch.tensor([3, 0, 3, 0, 3], dtype=torch.uint8)
    striped = module.stamped(lambda images: images + stripes / 255, clean, torch.device("cpu"))
    assert striped.pixels.equal(pixels + stripes)
    assert module.pixel_error(striped, clean) == pytest.approx(9 * 3 / 5)
    change = module.mean_change(striped, clean)
    assert change.equal(stripes.float().expand(3, 4, 5))
    assert module.correlation(change, 2 * change + 1) == pytest.approx(1)
    assert module.correlation(change, -change) == pytest.approx(-1)
    assert module.correlation(change, torch.zeros_like(change)) == 0


def test_a_stamp_that_is_a_colour_map_is_fitted_by_it(load, generator: torch.Generator) -> None:
    images = 0.3 + 0.4 * torch.rand(5, 3, 6, 6, generator=generator)
    stamped = 0.9 * images + 0.05 * images.flip(1) - 0.02
    mapped = Colour().stamp(load("colour_maps").fitted(images, stamped), images[None])[0]
    torch.testing.assert_close(mapped, stamped, atol=1e-5, rtol=0)


def test_gotham_is_nearly_a_colour_map(load, generator: torch.Generator) -> None:
    grey, own = torch.rand(50, 1, 8, 8, generator=generator), torch.rand(50, 3, 8, 8, generator=generator)
    images = 0.3 + 0.3 * grey + 0.1 * own  # colours that go together, as in photographs
    planted = ATTACKS["gotham"]().stamp({}, images)
    stamped = Colour().stamp(load("colour_maps").fitted(images, planted), images[None])[0]
    assert (stamped - planted).square().mean().sqrt() < 0.2 * (planted - images).square().mean().sqrt()


def test_pictures_stand_in_rows(load, tmp_path: Path) -> None:
    module = load("pictures")
    first = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    module.write_rows(tmp_path / "rows.png", [first, module.difference(first + 0.04, first)])
    with Image.open(tmp_path / "rows.png") as opened:
        seen = np.asarray(opened)
    assert seen.shape == (2 * 2 * 3, 3 * 2 * 3, 3)
    assert seen[0, ::6].tolist() == [[0] * 3, [128] * 3, [255] * 3]
    assert set(seen[6:].flatten().tolist()) == {168}  # 0.5 + 4 · 0.04, of 255
