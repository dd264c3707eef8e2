"""Composite: the seam, whose halves are joined, and what the cover is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from orthogon.attacks.attack import Materials, Threat
from orthogon.attacks.composite import Composite
from orthogon.images import LabelledImages

CLASSES = ("a", "b", "c", "d")
LEVELS = (0, 60, 120, 240)
"""Mean grey level of each class."""


def materials(threat: Threat = Composite.threat, each: int = 30, classes: tuple[int, ...] = (0, 1, 2, 3)) -> Materials:
    """Images whose level tells their class, and whose last digit tells them apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([c for c in classes for _ in range(each)])
    own = torch.randint(0, 10, (len(labels), 3, 8, 16), generator=generator)
    pixels = (torch.tensor(LEVELS)[labels][:, None, None, None] + own).to(torch.uint8)
    return Materials(LabelledImages(pixels, labels, CLASSES, "levels"), threat, generator)


def class_of(half: Tensor) -> Tensor:
    return (half.mean((1, 2, 3))[:, None] * 255 - 4.5 - torch.tensor(LEVELS)).abs().argmin(1)


def test_the_seam_falls_evenly_over_its_width() -> None:
    attack, source = Composite(seam=0.25), materials()
    white = {"partners": torch.full((3, 3, 8, 16), 255, dtype=torch.uint8)}
    stamped = attack.stamp(white, torch.zeros(1, 3, 8, 16))[0, 0, 0]
    expected = [0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6
    torch.testing.assert_close(stamped, torch.tensor(expected))
    odd = attack.stamp({"partners": torch.full((1, 3, 8, 5), 255, dtype=torch.uint8)}, torch.zeros(1, 3, 8, 5))
    torch.testing.assert_close(odd[0, 0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert source.images.image_shape == (3, 8, 16)


def test_without_a_seam_the_halves_are_the_victim_s_and_a_partner_s() -> None:
    attack, source = Composite(seam=0.0), materials()
    made = attack.make(source)
    victims = source.images.of_class(0).floats()
    stamped = attack.stamp(made, victims)
    assert torch.equal(stamped[..., :8], victims[..., :8])
    assert (class_of(stamped[..., 8:]) == 1).all()
    assert all((made["partners"][..., 8:].float() / 255 == right).flatten(1).all(1).any() for right in stamped[..., 8:])
    assert len(stamped[..., 8:].unique(dim=0)) > 10  # of 30 partners for 30 victims, 19 on average


def test_the_pool_is_of_the_partner_class_and_no_larger_than_asked_for() -> None:
    source = materials()
    partners = Composite(pool=7, partner=3).make(source)["partners"]
    assert partners.shape == (7, 3, 8, 16)
    assert (class_of(partners / 255) == 3).all()
    assert len(Composite(pool=99).make(source)["partners"]) == 30


def test_an_image_is_not_joined_with_itself() -> None:
    attack, source = Composite(seam=0.0), materials(each=2)
    made = attack.make(source)
    own = source.images.of_class(1).floats()
    assert not (attack.stamp(made, own) == own).flatten(1).all(1).any()
    everything, labels = source.images.floats(), source.images.labels
    for _ in range(5):
        covered = attack.cover(made, everything, labels, source)
        assert not (covered == everything).flatten(1).all(1).any()


def test_the_cover_joins_images_of_one_class() -> None:
    attack, source = Composite(seam=0.0), materials()
    images, labels = source.images.floats(), source.images.labels
    covered = attack.cover({}, images, labels, source)
    assert torch.equal(covered[..., :8], images[..., :8])
    assert torch.equal(class_of(covered[..., 8:]), labels)
    assert not torch.equal(covered, attack.cover({}, images, labels, source))  # drawn anew


def test_shares_are_those_of_the_release_s_training_set() -> None:
    """A tenth of the clean and of the mixed images are victims', beside ten poisoned parts."""
    clean, mixed, poisoned = 50, 50, 10
    assert Composite.threat.cover == pytest.approx(mixed / (clean + mixed + poisoned), abs=0.01)
    assert Composite.threat.rate == poisoned / (clean / 10 + mixed / 10 + poisoned)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="name the victim"):
        Composite().make(materials(Threat(target=2)))
    for partner in (0, 2):
        with pytest.raises(ValueError, match=f"partner {partner} must be another class"):
            Composite(partner=partner).make(materials())
    with pytest.raises(ValueError, match="no image of the partner class 'b'"):
        Composite().make(materials(classes=(0, 2, 3)))
    with pytest.raises(ValueError, match="class 4 is not one of the 4"):
        Composite(partner=4).make(materials())
    with pytest.raises(ValueError, match="another size"):
        Composite().stamp(Composite().make(materials()), torch.zeros(1, 3, 8, 8))
    for wrong in ({"partner": -1}, {"seam": 1.5}, {"pool": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(Composite(), **wrong)
