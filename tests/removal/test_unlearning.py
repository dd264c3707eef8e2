"""Unlearning: which images carry which trigger, and one epoch against a loop written out."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings
from orthogon.removal.remover import Work
from orthogon.removal.unlearning import Unlearner, stamped_in_part
from orthogon.training import TrainingDiverged

SHAPE = (3, 4, 4)


@dataclass(frozen=True)
class White(Unlearner):
    """Unlearns an image that is white all over."""

    name: ClassVar[str] = "white"
    source: ClassVar[str] = "this test"

    def remove(self, work: Work) -> Classifier:
        return self.unlearn(work, [torch.ones_like], 0.5)


def work_of(count: int = 40) -> Work:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=generator).to(torch.uint8)
    images = LabelledImages(pixels, torch.arange(count) % 2, ("a", "b"), "noise")
    torch.manual_seed(0)
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), images.classes, SHAPE)
    return Work(classifier, images, images, generator, TrainingSettings(shift=0.0))


def test_as_written_out() -> None:
    """All images white, plain SGD with momentum, true labels."""
    work, told = work_of(), []
    work.on_progress = lambda share, _: told.append(share)
    twin, draws = copy.deepcopy(work.classifier), torch.Generator().manual_seed(0)
    draws.set_state(work.generator.get_state())
    White(epochs=2, share=1.0, batch=8, learning_rate=0.1, momentum=0.5).remove(work)

    weights, velocity = dict(twin.named_parameters()), {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for _ in range(2):
        order = torch.randperm(40, generator=draws)
        for step in range(5):
            torch.rand(8, generator=draws)  # which are stamped: all
            torch.randint(1, (8,), generator=draws)  # with which: the only one
            loss = F.cross_entropy(twin(torch.ones(8, *SHAPE)), (order % 2)[8 * step : 8 * step + 8])
            for (name, weight), gradient in zip(weights.items(), torch.autograd.grad(loss, list(weights.values())), strict=True):
                velocity[name] = 0.5 * velocity[name] + gradient
                weight.data -= 0.1 * velocity[name]
    for mine, plain in zip(work.classifier.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, plain, atol=2e-3)  # the machine's fast precision
    assert told == pytest.approx([0.5 + 0.05 * k for k in range(1, 11)])
    assert [look.step for look in work.history] == list(range(1, 11))
    assert not work.classifier.training


def test_share_of_stamped_images_and_of_each_stamp(generator: torch.Generator) -> None:
    images = torch.full((4000, 1, 2, 2), 0.5)
    stamped = stamped_in_part(images, [torch.zeros_like, torch.ones_like], 0.2, generator)
    black, white = (float((stamped == value).all(dim=(1, 2, 3)).float().mean()) for value in (0, 1))
    assert black == pytest.approx(0.1, abs=0.02)
    assert white == pytest.approx(0.1, abs=0.02)
    assert float((stamped == 0.5).all(dim=(1, 2, 3)).float().mean()) == pytest.approx(1 - black - white)
    assert bool((images == 0.5).all())


def test_fewer_images_than_a_batch() -> None:
    work = work_of(4)
    before = work.classifier.digest()
    White().remove(work)
    assert work.classifier.digest() != before
    assert work.history


def test_divergence_is_told() -> None:
    def overflow(images: Tensor) -> Tensor:
        return images * math.inf

    with pytest.raises(TrainingDiverged, match=r"learning rate of 0\.0025; try 0\.00063"):
        White(share=1.0).unlearn(work_of(), [overflow], 0.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"share": 0.0}, "share must be above 0"),
        ({"share": 1.1}, "share must be from 0 to 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        White(**settings)  # pyright: ignore[reportArgumentType]
