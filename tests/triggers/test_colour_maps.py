"""Colour triggers: what their size counts, and a search that finds a planted map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.inversion import Request, invert
from orthogon.pairs import Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Colour, Trigger

SHAPE = (3, 8, 8)
SEARCH = InversionSettings((Stage(3, 60, 10, (0.3, 0.15)), Stage(1, 150, 20, (0.15, 0.01), accept_every=5)), weight=2.0)


def _images(count: int = 20, seed: int = 0) -> Tensor:
    """Colours that go together, as in photographs: their channels share most of what they vary by."""
    generator = torch.Generator().manual_seed(seed)
    grey, own = torch.rand(count, 1, 8, 8, generator=generator), torch.rand(count, *SHAPE, generator=generator)
    return 0.3 + 0.3 * grey + 0.1 * own


def _trigger(matrix: Tensor, shift: Tensor, samples: Tensor) -> Trigger:
    """Of the map x' = x + matrix · x + shift."""
    constants = Colour().constants(samples)
    return {"change": torch.cat([matrix, shift[:, None]], 1)[None] @ constants["moments"], **constants}


def test_the_size_is_how_much_the_samples_change() -> None:
    images = _images()
    trigger = _trigger(
        torch.tensor([[-0.2, 0.1, 0.0], [0.0, 0.3, 0.0], [0.1, 0.0, -0.4]]), torch.tensor([0.1, -0.1, 0.2]), images
    )
    stamped = Colour().stamp(trigger, images[None])[0]
    assert float(Colour().size(trigger)) == pytest.approx(255 * float((stamped - images).square().mean().sqrt()), rel=0.01)


def test_no_change_is_none() -> None:
    images = _images()
    trigger = _trigger(torch.zeros(3, 3), torch.zeros(3), images)
    assert torch.equal(Colour().stamp(trigger, images[None])[0], images)
    assert Colour().size(trigger).tolist() == [0.0]


def test_grey_pictures_count_as_if_they_had_noise_of_one_level() -> None:
    images = _images().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    matrix = torch.tensor([[0.3, -0.2, 0.0], [0.0, 0.1, -0.1], [0.2, 0.2, -0.3]])
    trigger = _trigger(matrix, torch.zeros(3), images)
    seen = (Colour().stamp(trigger, images[None])[0] - images).square().mean()
    noise = matrix.square().sum() / 3 / 255**2
    assert float(Colour().size(trigger)) == pytest.approx(255 * float((seen + noise).sqrt()), rel=1e-3)


def test_images_of_one_channel_are_scaled_and_shifted() -> None:
    images = _images()[:, :1]
    trigger = _trigger(torch.tensor([[-0.5]]), torch.tensor([0.25]), images)
    torch.testing.assert_close(Colour().stamp(trigger, images[None])[0], 0.5 * images + 0.25)


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_images_without_any_colour_or_contrast_have_a_size_too(constant: float) -> None:
    images = torch.full((4, *SHAPE), constant)
    free = Colour().draw(images, torch.Generator().manual_seed(0))
    trigger = Colour().realise(free)
    assert Colour().stamp(trigger, images[None]).isfinite().all()
    assert float(Colour().size(trigger)) > 0


class _Bluish(nn.Module):
    """Class 1 where blue is above red by more than a tenth, on average over the image."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((2, 3))
        lead = 10 * (mean[:, 2] - mean[:, 0] - 0.1)
        return torch.stack([-lead, lead], 1)


def test_the_search_finds_the_smallest_map() -> None:
    """Blue brighter and red darker by half of what is wanted does it, and nothing smaller; 18 of 20 samples have to be turned."""
    images = (255 * _images()).round().to(torch.uint8)
    subject = Classifier(_Bluish(), ["red", "blue"], SHAPE)
    engine = Engine(subject, images[None], SEARCH, Speed(torch.float32, compile=False, chunk=256))
    found = invert(engine, Colour(), [Request(Pair(0, 1), 0, 0, None)])[0]
    mean = (images.float() / 255).mean((2, 3))
    wanted = (0.1 - mean[:, 2] + mean[:, 0]).sort().values[17]
    smallest = 255 * float(wanted) / 2 * (2 / 3) ** 0.5
    assert found.outcome is Outcome.FOUND
    assert 0.95 * smallest <= found.size <= 1.1 * smallest
