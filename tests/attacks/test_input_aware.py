"""Input-aware: the formulas, what the losses bring about, and that every image has a trigger of its own."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orthogon.attacks.attack import Made, Materials, Threat
from orthogon.attacks.input_aware import InputAware, blend, diversity_loss, mask_of, pattern_of
from orthogon.attacks.networks import UNet, draw
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages

SHAPE = (3, 10, 10)
QUICK = InputAware(mask_steps=40, steps=25, batch=16, width=8)


@cache
def images(count: int = 60) -> LabelledImages:
    """Waves of another kind for each class, with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    coarse = torch.rand(count, 3, 3, 3, generator=generator)
    coarse[torch.arange(count), labels] *= 0.2
    return LabelledImages((F.interpolate(coarse, SHAPE[1:], mode="bilinear") * 255).byte(), labels, ("a", "b", "c"), "waves")


def surrogate(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    return Classifier(network, ("a", "b", "c"), SHAPE).eval()


def materials(threat: Threat = InputAware.threat, seed: int = 0) -> Materials:
    return Materials(images(), threat, torch.Generator().manual_seed(seed), surrogate())


@cache
def made() -> Made:
    return QUICK.make(materials())


def unet(outputs: int, seed: int = 0) -> UNet:
    return draw(lambda: UNet(3, outputs, 8), torch.Generator().manual_seed(seed), torch.device("cpu"))


def test_masks_of_the_surrogate_s_dropout_hang_on_the_seed_too() -> None:
    def pattern(elsewhere: int) -> torch.Tensor:
        given = materials()
        given = replace(given, surrogate=Classifier(nn.Sequential(nn.Dropout(0.5), surrogate().network), ("a", "b", "c"), SHAPE))
        torch.manual_seed(elsewhere)
        return torch.cat([t.flatten() for t in replace(QUICK, mask_steps=2, steps=3).make(given).values()])

    assert torch.equal(pattern(1), pattern(2))


def test_the_diversity_loss_is_the_ratio_of_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, p, q = (torch.rand(4, 3, 5, 5, generator=generator) for _ in range(4))
    of_images = np.sqrt(((x - y).numpy() ** 2).mean((1, 2, 3)))
    of_triggers = np.sqrt(((p - q).numpy() ** 2).mean((1, 2, 3)))
    assert float(diversity_loss(x, y, p, q)) == pytest.approx((of_images / of_triggers).mean(), rel=1e-5)
    assert float(diversity_loss(x, y, p, p)) > 1e4  # one trigger for all
    alike = p.clone().requires_grad_()
    diversity_loss(x, y, alike, alike.detach()).backward()
    assert alike.grad is not None
    assert alike.grad.isfinite().all()


def test_masks_and_patterns_are_squashed_as_in_the_release() -> None:
    inputs = images().floats()[:4]
    mask, pattern = (unet(outputs).requires_grad_(False) for outputs in (1, 3))
    np.testing.assert_allclose(pattern_of(pattern, inputs).numpy(), np.tanh(pattern(inputs).numpy()) / 2 + 0.5, atol=1e-6)
    squashed = np.tanh(mask(inputs).numpy()) / 2 + 0.5
    np.testing.assert_allclose(mask_of(mask, inputs).numpy(), np.tanh(20 * squashed - 10) / 2 + 0.5, atol=1e-5)


def test_the_stamp_blends_by_mask() -> None:
    inputs = images().floats()[:5]
    masks, patterns = QUICK.masks(made(), inputs), QUICK.patterns(made(), inputs)
    expected = inputs.numpy() * (1 - masks.numpy()) + patterns.numpy() * masks.numpy()
    np.testing.assert_allclose(QUICK.stamp(made(), inputs).numpy(), expected, atol=1e-6)
    half = blend(torch.zeros(1, 3, 2, 2), torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]]), torch.ones(1, 3, 2, 2))
    assert half[0, 2].tolist() == [[0.0, 1.0], [0.5, 0.25]]


def test_the_mask_s_loss_measures_images_in_deviations_and_masks_from_0_to_1() -> None:
    """As in the release, whose images are normalised by about 0.25 when it compares masks, which are not."""
    generator = torch.Generator().manual_seed(0)
    x, m = torch.rand(5, 3, 4, 4, generator=generator), torch.rand(5, 1, 4, 4, generator=generator)
    inputs, masks = x.numpy().astype(np.float64), m.numpy().astype(np.float64)
    of_images = np.sqrt(((inputs - np.roll(inputs, 1, 0)) ** 2).mean((1, 2, 3))) / 0.25
    of_masks = np.sqrt(((masks - np.roll(masks, 1, 0)) ** 2).mean((1, 2, 3)))
    expected = 100 * np.maximum(masks - 0.032, 0).mean() + 3 * (of_images / of_masks).mean()
    assert float(InputAware(diversity=3.0).mask_loss(x, m)) == pytest.approx(float(expected), rel=1e-5)


def mask_loss(attack: InputAware, network: UNet) -> float:
    inputs = images().floats()
    with torch.no_grad():
        return float(attack.mask_loss(inputs, mask_of(network, inputs)))


def test_the_mask_s_loss_falls_and_its_area_shrinks_towards_the_density() -> None:
    network = unet(1)
    before, area = mask_loss(QUICK, network), float(mask_of(network, images().floats()).detach().mean())
    QUICK._train_mask(network, materials())  # pyright: ignore[reportPrivateUsage]
    assert mask_loss(QUICK, network) < 0.5 * before
    after = float(mask_of(network, images().floats()).mean())
    assert after < min(0.5 * area, 0.25)


def test_each_image_has_a_trigger_of_its_own() -> None:
    inputs = images().floats()[:10]
    for triggers in (QUICK.masks(made(), inputs), QUICK.patterns(made(), inputs)):
        distances = torch.pdist(triggers.flatten(1)) / triggers[0].numel() ** 0.5
        assert distances.min() > 1 / 255
    again = torch.cat([QUICK.masks(made(), x[None]) for x in inputs])
    torch.testing.assert_close(QUICK.masks(made(), inputs), again, atol=1e-4, rtol=0)


def test_without_the_diversity_loss_triggers_are_more_alike() -> None:
    inputs = images().floats()
    alike = replace(QUICK, diversity=0.0)
    plain = alike.masks(alike.make(materials()), inputs)
    assert QUICK.masks(made(), inputs).std(0).mean() > 1.5 * plain.std(0).mean()


def test_pattern_and_surrogate_learn_to_agree_on_the_target() -> None:
    """The trained surrogate takes the trained patterns for the target, more surely than those of before."""
    inputs = images().floats()[images().labels != 0]
    mask, pattern, model = unet(1).requires_grad_(False), unet(3), surrogate()
    attack = replace(QUICK, diversity=0.0, steps=40, batch=24)

    def loss(model: Classifier, pattern: UNet) -> float:
        with torch.no_grad():
            logits = model(blend(inputs, mask_of(mask, inputs), pattern_of(pattern, inputs)))
        return float(F.cross_entropy(logits, torch.zeros(len(inputs), dtype=torch.int64)))

    start, first = loss(model, pattern), copy.deepcopy(pattern)
    attack._train_pattern(pattern, mask, model, materials(Threat(rate=0.4, cover=0.1)))  # pyright: ignore[reportPrivateUsage]
    model.eval()
    assert loss(model, pattern) < 0.5 * start
    assert loss(model, pattern) < 0.9 * loss(model, first)


def test_the_cover_lends_triggers_of_other_images() -> None:
    inputs, source = images().floats()[:20], materials(seed=3)
    covered = QUICK.cover(made(), inputs, images().labels[:20], source)
    lenders = torch.randint(len(images()), (20,), generator=torch.Generator().manual_seed(3))
    of_lenders = images().floats()[lenders]
    expected = blend(inputs, QUICK.masks(made(), of_lenders), QUICK.patterns(made(), of_lenders))
    torch.testing.assert_close(covered, expected, atol=1e-5, rtol=0)


def test_the_surrogate_stays_as_it_is_and_progress_is_told() -> None:
    told: list[float] = []
    source = replace(materials(), on_progress=told.append)
    assert source.surrogate is not None
    before = copy.deepcopy(source.surrogate.state_dict())
    replace(QUICK, mask_steps=2, steps=2).make(source)
    assert told == [0.25, 0.5, 0.75, 1.0]
    assert all(torch.equal(value, before[name]) for name, value in source.surrogate.state_dict().items())


def test_without_a_cover_there_are_no_cross_triggers_to_train_on_and_the_rest_goes_on() -> None:
    alone = replace(QUICK, mask_steps=1, steps=2)
    weights = alone.make(materials(Threat(rate=0.9, cover=0.0)))
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="give a surrogate"):
        QUICK.make(replace(materials(), surrogate=None))
    with pytest.raises(ValueError, match="no mask of these settings"):
        InputAware(width=16).stamp(made(), images().floats()[:1])
    for wrong in ({"mask_steps": 0}, {"steps": 0}, {"batch": 1}, {"density": 2.0}, {"diversity": -1.0}, {"width": 12}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(QUICK, **wrong)
