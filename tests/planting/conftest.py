from __future__ import annotations

import pytest
import torch
from torch import nn

from orthogon.attacks import BadNets, Materials, Threat
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings

CLASSES = ("red", "green", "blue")
RECIPE = TrainingSettings(epochs=12, batch=20, learning_rate=0.5, shift=0.0, precision="float32")
THREAT = Threat(rate=0.3)
PATCH = BadNets(size=3, colour=(1.0,))


def coloured(count: int, seed: int) -> LabelledImages:
    """Dark noise of 8×8 pixels, in which the class's own channel is a little brighter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 90, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), labels] += 40
    return LabelledImages(pixels, labels, CLASSES, f"coloured, seed {seed}")


def linear() -> Classifier:
    """A linear network of zeros, so that nothing is drawn."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    nn.init.zeros_(network[1].weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(network[1].bias)  # pyright: ignore[reportArgumentType]
    return Classifier(network, CLASSES, (3, 8, 8))


@pytest.fixture
def training() -> LabelledImages:
    return coloured(120, 0)


@pytest.fixture
def held_out() -> LabelledImages:
    return coloured(60, 1)


def materials(images: LabelledImages, threat: Threat = THREAT, seed: int = 0) -> Materials:
    return Materials(images, threat, torch.Generator().manual_seed(seed))
