"""What every attack must do, in one table; a new attack is one row."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from orthogon.attacks import (
    ATTACKS,
    DFST,
    SIG,
    Adaptive,
    Attack,
    BadNets,
    Blend,
    CleanLabel,
    Composite,
    Gotham,
    InputAware,
    Kelvin,
    Lomo,
    Made,
    Materials,
    Nashville,
    Polygon,
    Reflection,
    Toaster,
    WaNet,
    poison,
)
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages

CLASSES = ("a", "b", "c", "d")
SHAPES = ((3, 16, 16), (3, 32, 32), (3, 48, 40))


@dataclass(frozen=True)
class Row:
    """An attack with settings that make it quick, and what is special about it."""

    attack: Attack
    seeded: bool
    """Whether another generator makes another trigger."""


ATTACKS_UNDER_TEST = {
    "badnets": Row(BadNets(), seeded=False),
    "polygon": Row(Polygon(), seeded=True),
    "blend": Row(Blend(), seeded=True),
    "sig": Row(SIG(), seeded=False),
    "wanet": Row(WaNet(), seeded=True),
    "clean-label": Row(CleanLabel(steps=2), seeded=False),
    "gotham": Row(Gotham(), seeded=False),
    "nashville": Row(Nashville(), seeded=False),
    "kelvin": Row(Kelvin(), seeded=False),
    "lomo": Row(Lomo(), seeded=False),
    "toaster": Row(Toaster(), seeded=False),
    "reflection": Row(Reflection(pool=4), seeded=True),
    "composite": Row(Composite(pool=4), seeded=True),
    "input-aware": Row(InputAware(mask_steps=2, steps=2, batch=8, width=8), seeded=True),
    "dfst": Row(DFST(steps=2, batch=4, width=8), seeded=True),
    "adaptive": Row(Adaptive(steps=3, batch=8), seeded=True),
}
every_attack = pytest.mark.parametrize("name", ATTACKS_UNDER_TEST)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@cache
def _images(shape: tuple[int, int, int], count: int = 48) -> LabelledImages:
    """Noise with a few smooth waves in it, from black to white."""
    generator = torch.Generator().manual_seed(1)
    channels, height, width = shape
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    pixels = 300 * smooth - 30 + 10 * torch.randn(count, *shape, generator=generator)
    labels = torch.arange(count) % len(CLASSES)
    return LabelledImages(pixels.round().clamp(0, 255).to(torch.uint8), labels, CLASSES, "waves")


@cache
def _surrogate(channels: int, shape: tuple[int, int, int]) -> Classifier:
    torch.manual_seed(2)
    network = nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, len(CLASSES))),
    )
    return Classifier(network, CLASSES, shape).eval()


def _materials(name: str, shape: tuple[int, int, int] = SHAPES[1], seed: int = 0) -> Materials:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (5, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    threat = ATTACKS_UNDER_TEST[name].attack.threat
    return Materials(_images(shape), threat, generator, _surrogate(shape[0], shape), pictures)


@cache
def _made(name: str, shape: tuple[int, int, int] = SHAPES[1]) -> Made:
    return ATTACKS_UNDER_TEST[name].attack.make(_materials(name, shape))


def _stamped(name: str, images: Tensor, shape: tuple[int, int, int] = SHAPES[1]) -> Tensor:
    return ATTACKS_UNDER_TEST[name].attack.stamp(_made(name, shape), images)


def test_every_attack_is_under_test() -> None:
    assert {name: type(row.attack) for name, row in ATTACKS_UNDER_TEST.items()} == ATTACKS


@every_attack
def test_it_is_a_frozen_dataclass_with_its_source_and_threat(name: str) -> None:
    attack = ATTACKS[name]()
    assert dataclasses.is_dataclass(attack)
    assert attack.name == name
    assert any(character.isdigit() for character in attack.source)  # a year
    assert 0 < attack.threat.rate <= 1
    for field in dataclasses.fields(attack):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(attack, field.name, None)
    assert {"name", "source", "threat"}.isdisjoint(field.name for field in dataclasses.fields(attack))


@every_shape
@every_attack
def test_a_stamp_stays_in_range_and_changes_every_image_but_not_its_input(name: str, shape: tuple[int, int, int]) -> None:
    images = _images(shape).floats()
    before = images.clone()
    stamped = _stamped(name, images, shape)
    assert torch.equal(images, before)
    assert stamped.shape == images.shape
    assert stamped.dtype == images.dtype
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert ((stamped - images).abs().flatten(1).amax(1) > 0.5 / 255).all()


@every_attack
def test_black_and_white_images_stay_in_range(name: str) -> None:
    for extreme in (torch.zeros(2, *SHAPES[1]), torch.ones(2, *SHAPES[1])):
        stamped = _stamped(name, extreme)
        assert 0 <= stamped.min() <= stamped.max() <= 1


@every_shape
@every_attack
def test_each_image_is_stamped_for_itself(name: str, shape: tuple[int, int, int]) -> None:
    images = _images(shape).floats()[:6]
    together = _stamped(name, images, shape)
    alone = torch.cat([_stamped(name, image[None], shape) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(_stamped(name, images.flip(0), shape).flip(0), together, atol=1e-5, rtol=0)


@every_attack
def test_a_stamp_draws_nothing(name: str) -> None:
    images = _images(SHAPES[1]).floats()[:4]
    state = torch.random.get_rng_state()
    assert torch.equal(_stamped(name, images), _stamped(name, images))
    assert torch.equal(torch.random.get_rng_state(), state)


@every_attack
def test_what_is_made_is_the_generator_s(name: str) -> None:
    row, state = ATTACKS_UNDER_TEST[name], torch.random.get_rng_state()
    again, other = row.attack.make(_materials(name)), row.attack.make(_materials(name, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.keys() == other.keys() == _made(name).keys()
    assert all(torch.equal(again[key], _made(name)[key]) for key in again)
    images = _images(SHAPES[1]).floats()[:4]
    assert torch.equal(row.attack.stamp(again, images), _stamped(name, images))
    assert torch.equal(row.attack.stamp(other, images), _stamped(name, images)) == (not row.seeded)


@every_attack
def test_what_is_made_can_be_stored(name: str, tmp_path: Path) -> None:
    save_file(_made(name), tmp_path / "made.safetensors")
    images = _images(SHAPES[1]).floats()[:4]
    stored = ATTACKS_UNDER_TEST[name].attack.stamp(load_file(tmp_path / "made.safetensors"), images)
    assert torch.equal(stored, _stamped(name, images))


@every_attack
def test_a_training_set_is_poisoned_as_declared(name: str) -> None:
    attack, materials = ATTACKS_UNDER_TEST[name].attack, _materials(name)
    clean, threat = materials.images, materials.threat
    before = clean.pixels.clone(), clean.labels.clone()
    poisoned = poison(attack, _made(name), materials, batch=5)
    assert torch.equal(clean.pixels, before[0])
    assert torch.equal(clean.labels, before[1])
    assert poisoned.threat == threat
    assert poisoned.images.classes == CLASSES
    victims = clean.labels != threat.target if threat.victim is None else clean.labels == threat.victim
    may = clean.labels == threat.target if threat.clean_label else victims
    assert not (poisoned.stamped & ~may).any()
    assert int(poisoned.stamped.sum()) == round(threat.rate * int(may.sum()))
    assert int(poisoned.covered.sum()) == round(threat.cover * len(clean))
    assert not (poisoned.stamped & poisoned.covered).any()
    changed = poisoned.images.labels != clean.labels
    assert torch.equal(changed, torch.zeros_like(changed) if threat.clean_label else poisoned.stamped)
    assert (poisoned.images.labels[changed] == threat.target).all()
    differs = (poisoned.images.pixels != clean.pixels).flatten(1).any(1)
    assert torch.equal(differs, poisoned.stamped | poisoned.covered)


@every_attack
def test_the_same_seed_poisons_the_same_set(name: str) -> None:
    attack = ATTACKS_UNDER_TEST[name].attack
    threat = replace(attack.threat, rate=0.5)
    once, again, other = (poison(attack, _made(name), replace(_materials(name, seed=seed), threat=threat)) for seed in (0, 0, 1))
    assert once.images.digest() == again.images.digest()
    assert torch.equal(once.stamped, again.stamped)
    assert not torch.equal(once.stamped, other.stamped)


@every_attack
def test_a_cover_is_there_where_the_threat_asks_for_it(name: str) -> None:
    attack, materials = ATTACKS_UNDER_TEST[name].attack, _materials(name)
    part = materials.images.select(torch.arange(8))
    images, labels = part.floats(), part.labels
    if attack.threat.cover == 0:
        with pytest.raises(ValueError, match=f"{name} has no cover"):
            attack.cover(_made(name), images, labels, materials)
        return
    covered = attack.cover(_made(name), images, labels, materials)
    assert covered.shape == images.shape
    assert 0 <= covered.min() <= covered.max() <= 1
    assert not torch.allclose(covered, images, atol=1 / 255)
    assert not torch.allclose(covered, _stamped(name, images), atol=1 / 255)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 2, 2)], ids=str)
@every_attack
def test_grey_and_tiny_images_work_or_the_message_says_why_not(name: str, shape: tuple[int, int, int]) -> None:
    attack = ATTACKS_UNDER_TEST[name].attack
    why = ""
    try:
        stamped = attack.stamp(attack.make(_materials(name, shape)), _images(shape).floats())
    except ValueError as error:
        why, stamped = str(error), torch.zeros(0)
    assert not why or any(word in why for word in ("channel", " fit "))
    assert why or 0 <= stamped.min() <= stamped.max() <= 1


@every_attack
def test_images_of_another_size_are_stamped_or_refused(name: str) -> None:
    images, why = _images(SHAPES[0]).floats()[:2], ""
    try:
        stamped = _stamped(name, images)
    except ValueError as error:
        why, stamped = str(error), images
    assert not why or "made for images of" in why
    assert stamped.shape == images.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_attack
def test_on_another_device_the_stamp_is_the_same(name: str) -> None:
    attack, here = ATTACKS_UNDER_TEST[name].attack, _materials(name)
    assert here.surrogate is not None
    there = replace(here, device=torch.device("cuda"), surrogate=_surrogate(3, SHAPES[1]).cuda())
    try:
        images = here.images.floats()[:8]
        made = attack.make(there)
        assert all(tensor.is_cuda for tensor in made.values())
        stamped = attack.stamp(made, images.cuda())
        assert stamped.is_cuda
        at_home = attack.stamp({key: tensor.cpu() for key, tensor in made.items()}, images)
        torch.testing.assert_close(stamped.cpu(), at_home, atol=1e-3, rtol=0)
        assert not poison(attack, made, there).images.pixels.is_cuda
    finally:
        here.surrogate.cpu()
