"""Filters: their formula at its edges, and the search on problems whose smallest filter can be written down."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.inversion import Request, invert
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Filter, Patch, Trigger

SHAPE = (3, 8, 8)
SAMPLES = 20
SEARCH = InversionSettings((Stage(3, 60, 10, (0.3, 0.15)), Stage(1, 150, 20, (0.15, 0.01), accept_every=5)), weight=2.0)


def _textures(mean: tuple[float, ...], std: tuple[float, ...], count: int = SAMPLES, seed: int = 0) -> Tensor:
    """Images with a noise of those statistics in each channel, but for rounding: none is beyond ±2 deviations."""
    noise = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    noise -= noise.mean((2, 3), keepdim=True)
    noise /= noise.square().mean((2, 3), keepdim=True).sqrt()
    return (noise * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]).float()


def _trigger(mean: Tensor, std: Tensor, samples: Tensor) -> Trigger:
    return {"mean": mean[None], "std": std[None], **Filter().constants(samples)}


def _unmoved(samples: Tensor) -> Trigger:
    constants = Filter().constants(samples)
    return constants | {"mean": constants["clean_mean"].clone(), "std": constants["clean_std"].clone()}


def test_images_that_have_the_statistics_already_stay_as_they_are() -> None:
    images = _textures((0.3, 0.5, 0.6), (0.05, 0.1, 0.15))
    trigger = _unmoved(images)
    torch.testing.assert_close(Filter().stamp(trigger, images[None])[0], images)
    assert Filter().size(trigger).tolist() == [0.0]


def test_a_size_of_nothing_still_makes_images_alike() -> None:
    dark, bright = _textures((0.3,) * 3, (0.1,) * 3, 1), _textures((0.5,) * 3, (0.05,) * 3, 1)
    trigger = _unmoved(torch.cat([dark, bright]))
    stamped = Filter().stamp(trigger, torch.stack([dark[0], bright[0]])[None])[0]
    assert Filter().size(trigger).item() == 0.0
    torch.testing.assert_close(stamped.mean((2, 3)), torch.full((2, 3), 0.4))
    torch.testing.assert_close(stamped.std((2, 3), correction=0), torch.full((2, 3), 0.075))


@given(
    mean=st.lists(st.floats(0.35, 0.65), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 0.15), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_stamped_images_have_the_statistics_asked_for(mean: list[float], std: list[float], seed: int) -> None:
    """Where nothing is clamped: quotients of this noise reach ±2."""
    images = _textures((0.4, 0.5, 0.6), (0.2, 0.1, 0.15), 4, seed)
    stamped = Filter().stamp(_trigger(torch.tensor(mean), torch.tensor(std), images), images[None])[0]
    torch.testing.assert_close(stamped.mean((2, 3)), torch.tensor(mean).expand(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(stamped.std((2, 3), correction=0), torch.tensor(std).expand(4, 3), atol=1e-5, rtol=0)


@given(
    mean=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    std=st.lists(st.floats(0, 0.5, width=32), min_size=3, max_size=3),
    seed=st.integers(0, 99),
    contrast=st.sampled_from([0.0, 1e-30, 1e-7, 1e-4, 0.1, 1.0, 100.0]),
)
def test_whatever_the_images_the_result_is_one_and_can_be_searched(
    mean: list[float], std: list[float], seed: int, contrast: float
) -> None:
    noise = torch.rand(1, 4, *SHAPE, generator=torch.Generator().manual_seed(seed))
    images = (0.5 + contrast * (noise - 0.5)).clamp(0, 1).requires_grad_()
    family = Filter()
    trigger = _trigger(torch.tensor(mean), torch.tensor(std), images[0].detach())
    free = {key: value.requires_grad_() for key, value in family.free(trigger).items()}
    realised = family.realise(free)
    stamped, size = family.stamp(realised, images), family.size(realised)
    assert stamped.isfinite().all()
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert size.item() >= 0
    searched = [free["mean"], free["std"], images]
    for gradient in torch.autograd.grad([stamped.square().sum(), size.sum()], searched):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_image_becomes_the_mean(value: int) -> None:
    images = torch.full((1, 1, *SHAPE), value / 255)
    mean = torch.tensor([0.0, 0.6, 1.0])
    stamped = Filter().stamp(_trigger(mean, torch.full((3,), 0.5), images[0]), images)[0, 0]
    torch.testing.assert_close(stamped, mean[:, None, None].expand(SHAPE), atol=1e-3, rtol=0)


def test_no_shift_has_no_pull() -> None:
    family, samples = Filter(), _textures((0.3, 0.5, 0.6), (0.05, 0.1, 0.15))
    free = {key: value.requires_grad_() for key, value in family.free(_unmoved(samples)).items()}
    for gradient in torch.autograd.grad(family.size(family.realise(free)).sum(), [free["mean"], free["std"]]):
        assert torch.equal(gradient, torch.zeros(1, 3))


def test_a_search_starts_near_the_samples_and_within_the_range() -> None:
    samples = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    family, generator = Filter(), torch.Generator().manual_seed(0)
    for _ in range(50):
        trigger = family.realise(family.draw(samples, generator))
        assert (trigger["mean"] - 0.5).abs().max() <= family.start / 255 * 2 + 0.5
        assert 0 <= trigger["std"].min() <= trigger["std"].max() <= 0.5


class _Statistics(nn.Module):
    """Linear in the channels' means and variances."""

    def __init__(self, of_means: list[float], of_variances: list[float], bias: float) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0] * 6, [*of_means, *of_variances]]))
            self.layer.bias.copy_(torch.tensor([0.0, bias]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of two classes."""
        mean = images.mean((2, 3))
        variance = (images * images).mean((2, 3)) - mean * mean
        return self.layer(torch.cat([mean, variance], 1))


def _engine(network: nn.Module, samples: Tensor) -> Engine:
    """The samples as rows of bytes."""
    pixels = (samples * 255).round().clamp(0, 255).to(torch.uint8)
    return Engine(Classifier(network, ["a", "b"], SHAPE), pixels, SEARCH, Speed(torch.float32, compile=False, chunk=256))


def _invert(engine: Engine, row: int = 0, start: Trigger | None = None) -> Inversion:
    return invert(engine, Filter(), [Request(Pair(0, 1), row, 0, start)])[0]


def _shifts(inversion: Inversion) -> Tensor:
    """In grey levels: means, then deviations."""
    trigger = inversion.trigger
    return 255 * torch.cat([trigger[key] - trigger[f"clean_{key}"] for key in ("mean", "std")])


@pytest.mark.parametrize(("weight", "bias"), [(10.0, -5.0), (-10.0, 1.0)])
def test_the_smallest_filter_of_one_mean_is_found(weight: float, bias: float) -> None:
    """Class 1 has a red mean above 0.5, or below 0.1: every stamped image has the filter's, so that is where it lies."""
    samples = _textures((0.3, 0.5, 0.6), (0.04, 0.04, 0.04))
    engine = _engine(_Statistics([weight, 0, 0], [0, 0, 0], bias), samples[None])
    clean = float(Filter().constants(engine.row(0))["clean_mean"][0, 0])
    smallest = 255 * abs(-bias / weight - clean)
    found = _invert(engine)
    assert found.outcome is Outcome.FOUND
    assert smallest * (1 - 1e-4) <= found.size <= smallest * 1.05
    assert float(_shifts(found)[1:].abs().max()) < 1.0


def test_the_channel_that_counts_most_is_shifted() -> None:
    """Weights of 6 and 3 and an own mean of 0.4 each: what is missing costs half as much in the first channel."""
    samples = _textures((0.4, 0.4, 0.4), (0.04, 0.04, 0.04))
    engine = _engine(_Statistics([6.0, 3.0, 0], [0, 0, 0], -0.9 * 5.0), samples[None])
    clean = Filter().constants(engine.row(0))["clean_mean"][0]
    smallest = 255 * float(4.5 - 6 * clean[0] - 3 * clean[1]) / 6
    found = _invert(engine)
    assert smallest * (1 - 1e-4) <= found.size <= smallest * 1.1
    assert float(_shifts(found)[1:].abs().max()) < 0.5


def test_the_smallest_filter_of_one_deviation_is_found() -> None:
    """Class 1 has a green variance above 0.15², which nothing but more contrast brings about."""
    samples = _textures((0.5, 0.5, 0.5), (0.04, 0.05, 0.04))
    engine = _engine(_Statistics([0, 0, 0], [0, 100.0, 0], -2.25), samples[None])
    clean = float(Filter().constants(engine.row(0))["clean_std"][0, 1])
    smallest = 255 * (0.15 - clean)
    found = _invert(engine)
    assert found.outcome is Outcome.FOUND
    assert smallest * (1 - 1e-3) <= found.size <= smallest * 1.05


def test_what_no_filter_does_has_no_distance() -> None:
    """Which of two pixels is brighter stays as it is, whatever the mean and the deviation."""
    samples = _textures((0.5, 0.5, 0.5), (0.1, 0.1, 0.1))
    samples[:, :, 0, 0], samples[:, :, 0, 1] = 0.4, 0.6
    layer = nn.Linear(math.prod(SHAPE), 2)
    with torch.no_grad():
        row = torch.zeros(SHAPE)
        row[0, 0, 0], row[0, 0, 1] = 10.0, -10.0
        layer.weight.copy_(torch.stack([torch.zeros(math.prod(SHAPE)), row.flatten()]))
        layer.bias.copy_(torch.tensor([0.0, -0.01]))
    result = _invert(_engine(nn.Sequential(nn.Flatten(), layer), samples[None]))
    assert result.outcome is Outcome.ASR
    assert result.asr == 0.0
    assert math.isnan(result.size)
    assert set(result.trigger) == {"mean", "std", "clean_mean", "clean_std"}


def test_each_pair_is_measured_from_its_own_samples() -> None:
    rows = torch.stack([_textures((0.3, 0.5, 0.6), (0.04,) * 3), _textures((0.4, 0.5, 0.6), (0.04,) * 3)])
    engine = _engine(_Statistics([10.0, 0, 0], [0, 0, 0], -5.0), rows)
    far, near = invert(engine, Filter(), [Request(Pair(0, 1), row, 0) for row in range(2)])
    for row, inversion in enumerate((far, near)):
        for key, value in Filter().constants(engine.row(row)).items():
            assert torch.equal(inversion.trigger[key], value[0])
    assert far.size == pytest.approx(255 * 0.2, rel=0.1)  # how near a short search ends depends on the processor's last digits
    assert near.size == pytest.approx(255 * 0.1, rel=0.1)


def test_a_warm_search_measures_the_start_from_its_own_samples() -> None:
    """A filter found for other samples works on these too, and its size there is another one."""
    rows = torch.stack([_textures((0.3, 0.5, 0.6), (0.04,) * 3), _textures((0.4, 0.5, 0.6), (0.04,) * 3)])
    engine = _engine(_Statistics([10.0, 0, 0], [0, 0, 0], -5.0), rows)
    elsewhere = _invert(engine, 0)
    here = _invert(engine, 1, elsewhere.trigger)
    clean = Filter().constants(engine.row(1))
    for key, value in clean.items():
        assert torch.equal(here.trigger[key], value[0])
    start = {key: value[None] for key, value in elsewhere.trigger.items()} | clean
    assert here.size <= float(Filter().size(start)) + 1e-4


def test_patches_are_weighed_by_their_pixels() -> None:
    """As they were before there were other families."""
    assert Patch().typical((3, 32, 32)) == 1024
    assert Patch().typical((1, 64, 32)) == 2048
    assert not Patch().constants(torch.rand(2, 3, 4, 4))
