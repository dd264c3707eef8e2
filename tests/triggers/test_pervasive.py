"""Pervasive triggers against DECK's formulas, written plainly, and what the loop needs of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from orthogon.triggers import FAMILIES, Pervasive, Seen, Trigger, TriggerFamily
from orthogon.triggers.ssim import similarities

sys.path.insert(0, str(Path(__file__).parent))
from pervasive_networks import drawn, exact

SHAPE = (3, 8, 12)


def _family(**others: object) -> Pervasive:
    return Pervasive(networks=drawn(), **({"regions": 2} | others))  # type: ignore[arg-type]


def _images(count: int, each: int, seed: int = 1) -> Tensor:
    return torch.rand(count, each, *SHAPE, generator=torch.Generator().manual_seed(seed))


def _free(family: Pervasive, count: int, scale: float = 30.0) -> Trigger:
    generator = torch.Generator().manual_seed(0)
    draws = [family.draw(_images(1, 6)[0], generator) for _ in range(count)]
    searched = ("mean", "std", "kernels")
    return {key: torch.cat([d[key] for d in draws]) * (scale if key in searched else 1) for key in draws[0]}


def _plain_stamp(family: Pervasive, trigger: Trigger, images: Tensor) -> Tensor:
    """Eq. 1 and 2: one image and one region after the other."""
    encoder, decoder = family._opened.encoder, family._opened.decoder
    noise = decoder.draw_noise(16, SHAPE[1] // 2, SHAPE[2] // 2, torch.Generator().manual_seed(family.seed))
    z, stamped = family.regions, torch.empty_like(images)
    for n, b in np.ndindex(*images.shape[:2]):
        x = images[n, b].double()
        mean, std = (trigger[key][n].double()[:, None, None] for key in ("mean", "std"))
        own_mean, own_std = x.mean((1, 2), keepdim=True), x.std((1, 2), correction=0, keepdim=True)
        if family.statistics == "own":
            clean_mean, clean_std = (trigger[f"clean_{key}"][n].double()[:, None, None] for key in ("mean", "std"))
            mean, std = own_mean + mean - clean_mean, own_std * std / clean_std
        x = (x - own_mean) / own_std * std + mean
        features = encoder(x.float()[None])
        h, w = features.shape[2] // z, features.shape[3] // z
        changed = torch.empty_like(features)
        for i, j in np.ndindex(z, z):
            place = (..., slice(i * h, i * h + h), slice(j * w, j * w + w))
            changed[place] = F.conv2d(features[place], trigger["kernels"][n, i, j], padding=family.kernel // 2)
        stamped[n, b] = decoder(changed, noise[b : b + 1])[0]
    return stamped


def _plain_content(family: Pervasive, images: Tensor, stamped: Tensor) -> list[float]:
    """Eq. 8."""
    encode = family._opened.encoder
    return [float(np.mean((encode(y) - encode(x)).double().numpy() ** 2)) for x, y in zip(images, stamped, strict=True)]


def _identity(family: Pervasive, images: Tensor) -> Trigger:
    free = family.draw(images[0], torch.Generator())
    return family.realise(free | {key: 0 * free[key] for key in ("mean", "std", "kernels")})


def test_it_is_a_family_with_its_name_and_unit_and_opens_no_files_before_it_has_to() -> None:
    family = FAMILIES["pervasive"]
    assert isinstance(family, TriggerFamily)
    assert (family.name, family.unit) == ("pervasive", "root mean squared difference of encoder features")
    assert family.on_samples
    assert "_opened" not in vars(Pervasive(encoder="nowhere.safetensors"))


@pytest.mark.parametrize(("kernel", "statistics"), [(1, "shared"), (3, "shared"), (3, "own")])
def test_the_stamp_is_the_paper_s_for_each_trigger_on_its_own_images(kernel: int, statistics: str) -> None:
    family, images = _family(kernel=kernel, statistics=statistics), _images(3, 4)
    trigger = family.realise(_free(family, 3))
    stamped = family.stamp(trigger, images)
    torch.testing.assert_close(stamped, _plain_stamp(family, trigger, images), atol=1e-5, rtol=1e-4)
    assert float((stamped - family.stamp(_identity(family, images), images[:1])).abs().max()) > 0.01


def test_the_identity_gives_an_image_back_whose_statistics_are_the_samples_own() -> None:
    cells = torch.rand(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2
    image = cells.repeat_interleave(2, 3).repeat_interleave(2, 4)
    images = torch.cat([image, image.flip(3), image.flip(4)], dim=1)
    family = Pervasive(networks=exact(), regions=2)
    trigger = _identity(family, images)
    stamped = family.stamp(trigger, images)
    torch.testing.assert_close(stamped, images, atol=1e-4, rtol=0)
    size, penalty = family.measured(trigger, Seen(images, stamped))
    assert size.item() == pytest.approx(0, abs=1e-3)
    smooth = (images - F.avg_pool2d(images[0], 3, 1, 1, count_include_pad=False)).square().mean() * 255**2
    assert penalty.item() == pytest.approx(0.05 * float(smooth), rel=1e-3)


def test_images_of_different_brightness_keep_it_unless_the_statistics_are_shared() -> None:
    cells = torch.rand(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(3)) * 0.2 + 0.2
    image = cells.repeat_interleave(2, 3).repeat_interleave(2, 4)
    images = torch.cat([image, image + 0.3, 2 * image], dim=1)
    family = Pervasive(networks=exact(), regions=2)
    unchanged = _identity(family, images)
    torch.testing.assert_close(family.stamp(unchanged, images), images, atol=1e-4, rtol=0)
    moved = family.stamp(unchanged | {"mean": unchanged["mean"] + 0.05}, images)
    torch.testing.assert_close(moved, images + 0.05, atol=1e-4, rtol=0)
    wider = family.stamp(unchanged | {"std": unchanged["std"] * 1.1}, images)
    own = images.mean((3, 4), keepdim=True)
    torch.testing.assert_close(wider, own + 1.1 * (images - own), atol=1e-4, rtol=0)
    shared = replace(family, statistics="shared").stamp(unchanged, images)
    assert float(shared.mean((2, 3, 4)).std()) < 1e-4 < float(images.mean((2, 3, 4)).std())


def test_the_size_is_the_root_of_the_content_and_needs_images() -> None:
    family, images = _family(), _images(2, 5)
    trigger = family.realise(_free(family, 2))
    stamped = family.stamp(trigger, images)
    expected = np.sqrt(_plain_content(family, images, stamped))
    notes = {key: torch.stack([family.notes(row)[key] for row in images]) for key in family.notes(images[0])}
    for seen in (Seen(images, stamped), Seen(images, stamped, notes)):
        assert family.size(trigger, seen).tolist() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="give those before and after stamping"):
        family.size(trigger)


def test_the_penalty_is_equation_11_on_pixels_of_0_to_255() -> None:
    family, images = _family(), _images(2, 5)
    trigger = family.realise(_free(family, 2))
    stamped = family.stamp(trigger, images)
    size, penalty = family.measured(trigger, Seen(images, stamped))
    content, scale = _plain_content(family, images, stamped), (58.395**2 + 57.12**2 + 57.375**2) / 3
    for n in range(2):
        x, y = images[n], stamped[n]
        smooth = float(np.mean((y - F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)).numpy() ** 2)) * 255**2
        norm = sum(255 * float((trigger[key] - trigger[f"clean_{key}"])[n].abs().sum()) / 3 for key in ("mean", "std"))
        expected = 0.001 * scale * content[n] + 100 * (1 - float(similarities(x, y).mean())) + 0.05 * smooth + norm
        assert float(penalty[n]) == pytest.approx(expected, rel=1e-4)
        assert float(size[n]) == pytest.approx(content[n] ** 0.5, rel=1e-4)


def test_everything_that_is_searched_feels_stamp_and_penalty() -> None:
    family, images = _family(), _images(2, 3)
    free = {key: value.requires_grad_() for key, value in _free(family, 2).items()}
    trigger = family.realise(free)
    stamped = family.stamp(trigger, images)
    size, penalty = family.measured(trigger, Seen(images, stamped))
    assert not size.requires_grad
    for result in (stamped.sum(), penalty.sum()):
        for gradient in torch.autograd.grad(result, [free[key] for key in ("mean", "std", "kernels")], retain_graph=True):
            assert gradient.isfinite().all()
            assert (gradient != 0).flatten(1).any(1).all()


def test_the_gradient_is_that_of_differences() -> None:
    family, images = _family(), _images(1, 2)
    free = _free(family, 1)

    def loss(shift: float) -> Tensor:
        trigger = family.realise(free | {"kernels": free["kernels"] + shift * direction})
        return family.measured(trigger, Seen(images, family.stamp(trigger, images))).penalty.sum()

    leaf = free["kernels"].clone().requires_grad_()
    trigger = family.realise(free | {"kernels": leaf})
    (gradient,) = torch.autograd.grad(family.measured(trigger, Seen(images, family.stamp(trigger, images))).penalty.sum(), leaf)
    direction = gradient / gradient.norm()
    slope = float(loss(0.2) - loss(-0.2)) / 0.4
    assert slope == pytest.approx(float(gradient.norm()), rel=0.03)


def test_noise_goes_by_seed_and_by_an_image_s_place() -> None:
    family, images = _family(), _images(1, 18)
    images[0, 1:] = images[0, 0]
    trigger = family.realise(_free(family, 1))
    stamped = family.stamp(trigger, images)[0]
    assert not torch.equal(stamped[0], stamped[1])
    torch.testing.assert_close(stamped[0], stamped[16])
    notes = {"features": family.notes(images[0])["features"][None, :1], "place": torch.tensor([[1]])}
    torch.testing.assert_close(family.stamp(trigger, images[:, :1], notes)[0, 0], stamped[1])
    assert not torch.equal(replace(family, seed=1).stamp(trigger, images)[0, 0], stamped[0])


def test_stored_triggers_are_half_as_large_and_can_be_gone_on_with() -> None:
    family, images = _family(), _images(2, 2)
    trigger = family.realise(_free(family, 2))
    stored = family.stored(trigger)
    assert stored["kernels"].dtype is torch.float16
    again = family.realise(family.free(stored))
    torch.testing.assert_close(again["kernels"], trigger["kernels"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(family.stamp(stored, images), family.stamp(again, images), atol=1e-5, rtol=0)
    for key in ("mean", "std", "clean_mean", "clean_std"):
        torch.testing.assert_close(again[key], trigger[key])


def test_statistics_are_confined_to_what_images_can_have() -> None:
    family = _family()
    free = _free(family, 2, 1e6)
    before = family.realise(free)
    family.confine(free)
    for key, most in {"mean": 1.0, "std": 0.5}.items():
        assert 0 <= before[key].min() <= before[key].max() <= most
        torch.testing.assert_close(family.realise(free)[key], before[key])


def test_a_shrunk_trigger_lies_between_it_and_the_identity() -> None:
    family, images = _family(), _images(2, 6)
    trigger = family.realise(_free(family, 2, 100))
    sizes = [family.size(t, Seen(images, family.stamp(t, images))) for t in (family.shrunk(trigger, s) for s in (0.0, 0.5, 1.0))]
    assert (sizes[1] < sizes[2]).all()
    torch.testing.assert_close(
        family.shrunk(trigger, 0.0)["kernels"], _identity(family, images)["kernels"].expand_as(trigger["kernels"])
    )
    torch.testing.assert_close(family.shrunk(trigger, 1.0)["kernels"], trigger["kernels"])
    one = family.shrunk({key: value[1] for key, value in family.stored(trigger).items()}, 0.5)
    torch.testing.assert_close(one["kernels"], family.shrunk(trigger, 0.5)["kernels"][1], atol=1e-3, rtol=1e-3)


def test_jitter_moves_within_its_amount_by_its_own_generators() -> None:
    family = _family()
    trigger = family.stored(family.realise(_free(family, 2)))
    noisy = family.jitter(trigger, 0.01, [torch.Generator().manual_seed(n) for n in range(2)])
    for key, most in {"mean": 0.01, "std": 0.01, "kernels": 0.003 * 0.01}.items():
        moved = (noisy[key] - trigger[key]).abs()
        assert 0.5 * most < float(moved.max()) <= 1.01 * most
        assert not torch.equal(moved[0], moved[1])


def test_bfloat16_is_near_and_leaves_the_family_as_it_is() -> None:
    family, images = _family(), _images(2, 3)
    trigger = family.realise(_free(family, 2))
    fast = family.at(torch.bfloat16)
    expected = family.stamp(trigger, images)
    assert fast.stamp(trigger, images).dtype is torch.float32
    assert float((fast.stamp(trigger, images) - expected).abs().mean()) < 0.01
    assert not torch.equal(fast.stamp(trigger, images), expected)
    assert torch.equal(family.stamp(trigger, images), expected)
    assert fast.described() == family.described()


def test_images_that_cannot_be_cut_are_refused_with_what_would_fit() -> None:
    family = _family(regions=4)
    family.require_shape((3, 16, 24))
    for shape, message in (
        ((3, 28, 28), r"4×4 regions do not divide .* 28×28 images, 14×14; give regions=1 or 2 or 7 or 14, or .* multiples of 8"),
        ((3, 4, 4), "give regions=1 or 2, or images"),
        ((3, 1, 9), "do not divide the features of 1×9 images"),
        ((1, 16, 16), "need images of 3 channels, the model takes 1"),
    ):
        with pytest.raises(ValueError, match=message):
            family.require_shape(shape)
    for wrong in ({"regions": 0}, {"kernel": 2}):
        with pytest.raises(ValueError, match="regions must be at least 1 and kernel odd"):
            _family(**wrong)


@pytest.mark.parametrize("resolution", [16, 17])
@pytest.mark.parametrize("upsampling", ["zero", "nearest", "swwae"])
def test_every_upsampling_and_a_resolution_of_the_encoder_s_own_will_do(upsampling: str, resolution: int) -> None:
    networks = drawn(upsampling=upsampling, resolution=resolution)
    family, images = Pervasive(networks=networks, regions=2), _images(2, 2)
    family.require_shape(SHAPE)
    stamped = family.stamp(family.realise(_free(family, 2)), images)
    assert stamped.shape == images.shape
    assert stamped.isfinite().all()
    assert 0 <= stamped.min() <= stamped.max() <= 1


def test_regions_that_do_not_divide_a_resolution_ask_for_another_one() -> None:
    told = r"images encoded at 18×18, 9×9; give regions=1 or 3 or 9, or an encoder resolution that is a multiple of 4"
    with pytest.raises(ValueError, match=told):
        Pervasive(networks=drawn(resolution=18), regions=2).require_shape(SHAPE)


def test_sizes_are_told_with_what_measured_them() -> None:
    told, other = _family().described(), _family(regions=1).described()
    assert (told["encoder"]["layer"], told["encoder"]["scale"], told["regions"], told["kernel"]) == ("pool1", "torch", 2, 3)
    assert told["decoder"]["upsampling"] == "random"
    assert {key for key in told if told[key] != other[key]} == {"regions"}
