"""The contract that every trigger family meets; a new family is one row of FAMILIES_UNDER_TEST."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orthogon.methods import Family
from orthogon.triggers import FAMILIES, Additive, Colour, Filter, Patch, Trigger, TriggerFamily, Warp

SHAPE = (3, 5, 4)


def _plain_patch(trigger: Trigger, images: Tensor) -> Tensor:
    """MOTH, Eq. 2."""
    mask, pattern = trigger["mask"][:, None], trigger["pattern"][:, None]
    return (1 - mask) * images + mask * pattern


def _plain_patch_size(trigger: Trigger) -> Tensor:
    return trigger["mask"].expand_as(trigger["pattern"]).abs().flatten(1).sum(1)


def _plain_filter(trigger: Trigger, images: Tensor) -> Tensor:
    """MOTH, appendix X-G, second equation."""
    own_mean = images.mean((3, 4), keepdim=True)
    own_std = (images - own_mean).square().mean((3, 4), keepdim=True).sqrt()
    mean, std = (trigger[key][:, None, :, None, None] for key in ("mean", "std"))
    return ((images - own_mean) / own_std * std + mean).clamp(0, 1)


def _plain_filter_size(trigger: Trigger) -> Tensor:
    """The second term of the first one, in grey levels."""
    return 255 * sum((trigger[key] - trigger[f"clean_{key}"]).abs() for key in ("mean", "std")).sum(1)


def _keys(place: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.75: what a point that far away, in grid steps, weighs."""
    far = place.abs()
    near, middle = 1.25 * far**3 - 2.25 * far**2 + 1, -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
    return torch.where(far <= 1, near, torch.where(far < 2, middle, torch.zeros_like(far)))


def _bicubic(count: int, cells: int) -> Tensor:
    """(count, cells): what each coarse point gives to each of `count` places from the first to the last of them."""
    weights = torch.zeros(count, cells, dtype=torch.float64)
    for n in range(count):
        place = torch.tensor(n * (cells - 1) / (count - 1), dtype=torch.float64)
        for point in range(int(place) - 1, int(place) + 3):
            weights[n, min(max(point, 0), cells - 1)] += _keys(place - point)
    return weights


def _enlarged(field: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (_bicubic(side, field.shape[-1]).to(field) for side in (height, width))
    return torch.einsum("yi,ncij,xj->ncyx", rows, field, columns)


def _plain_warp(trigger: Trigger, images: Tensor) -> Tensor:
    """Bilinear, pixel by pixel, with the edge going on beyond itself."""
    height, width = images.shape[-2:]
    moved = _enlarged(trigger["field"], height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    across, down = (x + moved[:, 0]).clamp(0, width - 1), (y + moved[:, 1]).clamp(0, height - 1)
    left, top = across.detach().floor().long().clamp(max=width - 2), down.detach().floor().long().clamp(max=height - 2)
    warped = torch.zeros_like(images)
    for right in (0, 1):
        for below in (0, 1):
            weight = (1 - (across - left - right).abs()) * (1 - (down - top - below).abs())
            fetched = [image[:, :, t + below, u + right] for image, t, u in zip(images, top, left, strict=True)]
            warped = warped + weight[:, None, None] * torch.stack(fetched)
    return warped


def _plain_warp_size(trigger: Trigger) -> Tensor:
    """Lengths, rounded off below a hundred thousandth of a pixel, at 4 × 4 places per cell."""
    side = 4 * trigger["field"].shape[-1]
    squares = _enlarged(trigger["field"], side, side).square().sum(1)
    return ((squares + 1e-10).sqrt() - 1e-5).mean((1, 2))


def _plain_additive(trigger: Trigger, images: Tensor) -> Tensor:
    return (images + trigger["change"][:, None]).clamp(0, 1)


def _plain_additive_size(trigger: Trigger) -> Tensor:
    """Rounded off below a ten thousandth of a grey level."""
    return ((255 * trigger["change"]).square().mean((1, 2, 3)) + 1e-8).sqrt() - 1e-4


def _plain_colour(trigger: Trigger, images: Tensor) -> Tensor:
    """A matrix on the channels, and a shift."""
    change = trigger["change"] @ trigger["moments"].inverse()
    mixed = torch.einsum("noi,nbihw->nbohw", change[..., :-1], images)
    return (images + mixed + change[:, None, :, -1, None, None]).clamp(0, 1)


def _plain_colour_size(trigger: Trigger) -> Tensor:
    """Rounded off below a ten thousandth of a grey level."""
    return ((255 * trigger["change"]).square().sum((1, 2)) / SHAPE[0] + 1e-8).sqrt() - 1e-4


class Row(NamedTuple):
    """A family, its unit, the most that each searched tensor can be, and the formulas of stamp and size, written plainly."""

    family: TriggerFamily
    unit: str
    most: dict[str, float]
    stamp: Callable[[Trigger, Tensor], Tensor]
    size: Callable[[Trigger], Tensor]
    least: float = 0.0
    """The least that any of them can be."""


FAMILIES_UNDER_TEST = {
    "patch": Row(Patch(), "mask L1, summed over channels", {"mask": 1.0, "pattern": 1.0}, _plain_patch, _plain_patch_size),
    "filter": Row(
        Filter(),
        "mean and deviation shift in grey levels of 255, summed over channels",
        {"mean": 1.0, "std": 0.5},
        _plain_filter,
        _plain_filter_size,
    ),
    "colour": Row(
        Colour(), "root mean square change in grey levels of 255", {"change": 1.0}, _plain_colour, _plain_colour_size, -1.0
    ),
    "warp": Row(Warp(), "mean displacement in pixels", {"field": 8.0}, _plain_warp, _plain_warp_size, -8.0),
    "additive": Row(
        Additive(),
        "root mean square change in grey levels of 255",
        {"change": 1.0},
        _plain_additive,
        _plain_additive_size,
        -1.0,
    ),
}

every_family = pytest.mark.parametrize("name", list(FAMILIES_UNDER_TEST))


def _family(name: str) -> TriggerFamily:
    return FAMILIES_UNDER_TEST[name].family


def _samples() -> Tensor:
    return _images(1, 6)[0] * 0.8


def _free(family: TriggerFamily, count: int, seed: int = 0) -> Trigger:
    generator = torch.Generator().manual_seed(seed)
    draws = [family.draw(_samples(), generator) for _ in range(count)]
    return {key: torch.cat([d[key] for d in draws]) for key in draws[0]}


def _searched(family: TriggerFamily, trigger: Trigger) -> Trigger:
    """Without the constants."""
    return {key: value for key, value in trigger.items() if key not in family.constants(_samples())}


def _scaled(family: TriggerFamily, free: Trigger, factor: float) -> Trigger:
    return free | {key: value * factor for key, value in _searched(family, free).items()}


def _leaves(free: Trigger) -> Trigger:
    return {key: value.requires_grad_() for key, value in free.items()}


def _images(count: int, each: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, each, *SHAPE, dtype=dtype, generator=torch.Generator().manual_seed(1))


def test_every_family_is_under_test() -> None:
    assert set(FAMILIES) == set(get_args(Family))
    by_networks = {name for name, family in FAMILIES.items() if family.on_samples}
    assert by_networks == {"pervasive"}  # whose contract is in test_pervasive.py: its size hangs on images, and on files
    assert set(FAMILIES) - by_networks == set(FAMILIES_UNDER_TEST)


@every_family
def test_it_is_a_family_with_its_name_and_unit(name: str) -> None:
    row = FAMILIES_UNDER_TEST[name]
    assert isinstance(row.family, TriggerFamily)
    assert FAMILIES[name].name == row.family.name == name
    assert row.family.unit == row.unit
    assert row.family.typical((3, 32, 32)) > 0


@every_family
def test_a_trigger_is_what_is_searched_and_its_constants(name: str) -> None:
    row = FAMILIES_UNDER_TEST[name]
    constants, free = row.family.constants(_samples()), _free(row.family, 2)
    assert set(free) == set(row.family.realise(free)) == {*row.most, *constants}
    for key, value in constants.items():
        assert len(value) == 1
        assert torch.equal(free[key], value.expand_as(free[key]))


@every_family
def test_constants_go_through_everything_as_they_are_and_without_a_gradient(name: str) -> None:
    family = _family(name)
    free = _leaves(_free(family, 2))
    trigger = family.realise(free)
    noisy = family.jitter(trigger, 0.1, [torch.Generator().manual_seed(n) for n in range(2)])
    for key in family.constants(_samples()):
        assert not trigger[key].requires_grad
        for there in (trigger, family.free(trigger), noisy):
            assert torch.equal(there[key], free[key])


@every_family
def test_draws_are_the_generator_s(name: str) -> None:
    once, again, other = _free(_family(name), 1, 0), _free(_family(name), 1, 0), _free(_family(name), 1, 1)
    for key, value in _searched(_family(name), once).items():
        assert len(value) == 1
        assert torch.equal(value, again[key])
        assert not torch.equal(value, other[key])


@every_family
def test_free_parameters_and_triggers_stand_for_each_other(name: str) -> None:
    family = _family(name)
    free = {key: value.clamp(-4, 4) for key, value in _scaled(family, _free(family, 4), 3).items()}
    family.confine(free)
    there = family.free(family.realise(free))
    for key, value in free.items():
        torch.testing.assert_close(there[key], value, atol=1e-3, rtol=0)
    trigger = family.realise(free)
    for key, value in family.realise(family.free(trigger)).items():
        torch.testing.assert_close(value, trigger[key], atol=2e-6, rtol=0)


@every_family
def test_any_real_numbers_stand_for_a_trigger(name: str) -> None:
    family = _family(name)
    for scale in (0.0, 1.0, 1e3, 1e30):
        trigger = family.realise(_scaled(family, _free(family, 4), scale))
        stamped = family.stamp(trigger, _images(4, 2))
        assert stamped.isfinite().all()
        assert stamped.min() >= 0
        assert stamped.max() <= 1 + 1e-6
        assert (family.size(trigger) >= 0).all()


@every_family
def test_the_stamp_is_its_formula_for_each_trigger_on_its_own_images(name: str) -> None:
    family, plain = FAMILIES_UNDER_TEST[name].family, FAMILIES_UNDER_TEST[name].stamp
    trigger, images = family.realise(_free(family, 4)), _images(4, 3)
    stamped = family.stamp(trigger, images)
    torch.testing.assert_close(stamped, plain(trigger, images))
    for n in range(4):
        alone = family.stamp({key: value[n : n + 1] for key, value in trigger.items()}, images[n : n + 1])
        torch.testing.assert_close(alone[0], stamped[n])


@every_family
def test_the_size_is_its_formula(name: str) -> None:
    row = FAMILIES_UNDER_TEST[name]
    trigger = row.family.realise(_free(row.family, 4))
    torch.testing.assert_close(row.family.size(trigger), row.size(trigger))


@every_family
def test_the_gradients_are_those_of_the_formulas(name: str) -> None:
    family, _, _, plain, plain_size, _ = FAMILIES_UNDER_TEST[name]
    free = {key: value.double().requires_grad_() for key, value in _free(family, 2).items()}
    images, pull = _images(2, 3, torch.float64).requires_grad_(), torch.randn(2, 3, *SHAPE, dtype=torch.float64)
    trigger = family.realise(free)
    loss = (family.stamp(trigger, images) * pull).sum() + family.size(trigger).square().sum()
    reference = (plain(trigger, images) * pull).sum() + plain_size(trigger).square().sum()
    inputs = [*_searched(family, free).values(), images]
    expected = torch.autograd.grad(reference, inputs, retain_graph=True)
    for gradient, wanted in zip(torch.autograd.grad(loss, inputs), expected, strict=True):
        torch.testing.assert_close(gradient, wanted)


@every_family
def test_the_stamp_passes_gradcheck(name: str) -> None:
    family = _family(name)
    trigger = family.realise({key: value.double() for key, value in _free(family, 2).items()})
    names = list(trigger)

    def stamp(images: Tensor, *tensors: Tensor) -> Tensor:
        return family.stamp(dict(zip(names, tensors, strict=True)), images)

    inputs = (_images(2, 2, torch.float64), *trigger.values())
    assert torch.autograd.gradcheck(stamp, tuple(t.detach().requires_grad_() for t in inputs))


@every_family
def test_images_without_gradients_leave_the_trigger_s_as_they_are(name: str) -> None:
    family, images = _family(name), _images(2, 2)

    def gradients(images: Tensor) -> list[Tensor]:
        free = _leaves(_free(family, 2))
        loss = family.stamp(family.realise(free), images).sum()
        return list(torch.autograd.grad(loss, list(_searched(family, free).values())))

    for one, other in zip(gradients(images), gradients(images.clone().requires_grad_()), strict=True):
        assert torch.equal(one, other)


@every_family
@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_warm_search_can_leave_the_ends_of_the_range(name: str, end: float) -> None:
    """A stored trigger has values at the very ends; their free parameters still have a gradient to move by."""
    family, most = _family(name), FAMILIES_UNDER_TEST[name].most
    trigger = family.realise(_free(family, 1))
    trigger |= {key: torch.full_like(trigger[key], end * most[key]) for key in most}
    free = _leaves(family.free(trigger))
    realised = family.realise(free)
    for key, value in _searched(family, realised).items():
        torch.testing.assert_close(value, trigger[key], atol=2e-5, rtol=0)
        (gradient,) = torch.autograd.grad(value.sum(), free[key], retain_graph=True)
        assert (gradient > 0).all()


@every_family
def test_confined_parameters_stand_for_the_same_trigger_and_can_move(name: str) -> None:
    family = _family(name)
    free = _scaled(family, _free(family, 2), 1e3)
    before = family.realise(free)
    assert family.confine(free) is None
    leaves = _leaves(free)
    for key, value in _searched(family, family.realise(leaves)).items():
        torch.testing.assert_close(value, before[key], atol=2e-5, rtol=0)
        (gradient,) = torch.autograd.grad(value.sum(), leaves[key], retain_graph=True)
        assert (gradient > 0).all()


@every_family
def test_what_lies_within_is_not_confined(name: str) -> None:
    family = _family(name)
    free = _free(family, 2)
    before = {key: value.clone() for key, value in free.items()}
    family.confine(free)
    assert all(torch.equal(value, before[key]) for key, value in free.items())


@every_family
def test_jitter_stays_in_range_and_within_its_amount(name: str) -> None:
    family = _family(name)
    trigger = family.realise(_scaled(family, _free(family, 9), 5))
    noisy = family.jitter(trigger, 0.3, [torch.Generator().manual_seed(n) for n in range(9)])
    for key, value in _searched(family, noisy).items():
        moved = (value - trigger[key]).abs()
        assert value.shape == trigger[key].shape
        row = FAMILIES_UNDER_TEST[name]
        assert row.least <= value.min() <= value.max() <= row.most[key]
        assert 0.2 < moved.max() <= 0.3 + 1e-6


@every_family
def test_jitter_of_a_trigger_is_its_own_generator_s(name: str) -> None:
    family = _family(name)
    trigger = family.realise(_free(family, 3))
    together = family.jitter(trigger, 0.01, [torch.Generator().manual_seed(n) for n in range(3)])
    alone = {key: value[1:2] for key, value in trigger.items()}
    alone = family.jitter(alone, 0.01, [torch.Generator().manual_seed(1)])
    for key, value in _searched(family, together).items():
        assert torch.equal(value[1:2], alone[key])
        assert not torch.equal((value - trigger[key])[0], (value - trigger[key])[1])


@every_family
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_shrunk_trigger_has_its_share_of_the_size(name: str, share: float) -> None:
    family = _family(name)
    trigger = family.realise(_free(family, 3))
    shrunk = family.shrunk(trigger, share)
    assert set(shrunk) == set(trigger)
    torch.testing.assert_close(family.size(shrunk), share * family.size(trigger), atol=1e-4, rtol=1e-5)


@every_family
def test_no_jitter_moves_nothing(name: str) -> None:
    family = _family(name)
    trigger = family.realise(_free(family, 2))
    for key, value in family.jitter(trigger, 0.0, [torch.Generator(), torch.Generator()]).items():
        assert torch.equal(value, trigger[key])


@every_family
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_a_shrunk_trigger_has_the_share_of_its_size_and_is_valid(name: str, share: float) -> None:
    row = FAMILIES_UNDER_TEST[name]
    trigger = row.family.realise(_free(row.family, 5))
    before = {key: value.clone() for key, value in trigger.items()}
    shrunk = row.family.shrunk(trigger, share)
    assert shrunk.keys() == trigger.keys()
    torch.testing.assert_close(row.family.size(shrunk), share * row.family.size(trigger), rtol=0.02, atol=0.05)
    for key, most in row.most.items():
        assert shrunk[key].shape == trigger[key].shape
        assert row.least <= shrunk[key].min() <= shrunk[key].max() <= most + 1e-6
    again = row.family.realise(row.family.free(shrunk))
    torch.testing.assert_close(row.family.size(again), row.family.size(shrunk), rtol=0.02, atol=0.05)
    for key in row.family.constants(_samples()):
        assert torch.equal(shrunk[key], trigger[key])
    assert all(torch.equal(trigger[key], before[key]) for key in before)


unit_interval = st.floats(0, 1, width=32)


@given(mask=unit_interval, pattern=unit_interval, pixel=unit_interval)
def test_a_patch_mixes_each_pixel_with_its_pattern(mask: float, pattern: float, pixel: float) -> None:
    trigger = {"mask": torch.tensor(mask).view(1, 1, 1, 1), "pattern": torch.tensor(pattern).view(1, 1, 1, 1)}
    stamped = float(Patch().stamp(trigger, torch.tensor(pixel).view(1, 1, 1, 1, 1)))
    assert stamped == pytest.approx((1 - mask) * pixel + mask * pattern, abs=1e-6)
    assert min(pattern, pixel) - 1e-6 <= stamped <= max(pattern, pixel) + 1e-6


@given(start=st.floats(0.05, 0.5))
def test_a_patch_search_starts_from_a_mask_of_the_mean_asked_for(start: float) -> None:
    family = Patch(start=start)
    trigger = family.realise(family.draw(torch.zeros(1, 3, 16, 16), torch.Generator().manual_seed(0)))
    assert trigger["mask"].shape == (1, 1, 16, 16)
    assert trigger["pattern"].shape == (1, 3, 16, 16)
    assert float(trigger["mask"].mean()) == pytest.approx(start, rel=0.15)
    assert float(trigger["mask"].max()) <= 2 * start + 1e-5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_patch_s_mask_counts_once_for_every_channel(channels: int) -> None:
    trigger = {"mask": torch.full((2, 1, 4, 4), 0.5), "pattern": torch.rand(2, channels, 4, 4)}
    assert Patch().size(trigger).tolist() == [8.0 * channels] * 2
