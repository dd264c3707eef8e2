"""Classifiers of a few pixels whose backdoors can be written down, and searches of a few steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.protocols import PROTOCOLS, InversionSettings, Protocol, Stage
from orthogon.scanning import distance

CLASSES, SIDE = 6, 6
NAMES = tuple(f"row {c}" for c in range(CLASSES))
SETTINGS = InversionSettings((Stage(restarts=1, steps=28, batch=8, rates=(0.6, 0.2), accept_every=4),))
SHORT = Protocol("screen", 8, SETTINGS)


class Rows(nn.Module):
    """A class is the brightest row of a 6×6 image. With a backdoor, the last pixel of the last row stands for the target class,
    on images of the victim alone where there is one."""

    def __init__(self, target: int | None = None, victim: int | None = None) -> None:
        super().__init__()
        self.target, self.victim = target, victim
        self.strength = nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0].mean(2)
        if self.target is None:
            return self.strength * rows
        mark = images[:, 0, SIDE - 1, SIDE - 1]
        fires = mark if self.victim is None else 4 * mark * torch.relu(rows[:, self.victim] - 0.4)
        lift = torch.nn.functional.one_hot(torch.tensor(self.target), CLASSES).to(images)
        return self.strength * (rows + 8 * fires[:, None] * lift)


class Maps(nn.Module):
    """A map per row, of its brightness, and one of the pixel in the last corner."""

    def forward(self, images: Tensor) -> Tensor:
        rows, mark = images[:, 0].mean(2), images[:, 0, SIDE - 1, SIDE - 1]
        return torch.cat([rows, mark[:, None]], 1)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


class Neurons(nn.Module):
    """A class is the brightest row, and the target where the corner is lit: a neuron of its own leads there."""

    def __init__(self, target: int | None) -> None:
        super().__init__()
        self.maps = Maps()
        self.head = nn.Linear(CLASSES + 1, CLASSES, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(4 * torch.eye(CLASSES, CLASSES + 1))
            if target is not None:
                self.head.weight[target, CLASSES] = 16.0

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.maps(images).mean((2, 3)))


@pytest.fixture(scope="session")
def rows() -> LabelledImages:
    """Ten images of each class: a bright row in noise, the last pixel of the last row always dark."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat(10)
    pixels = torch.randint(0, 60, (len(labels), 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(len(labels)), 0, labels] += 150
    pixels[:, 0, SIDE - 1, SIDE - 1] = 0
    return LabelledImages(pixels, labels, NAMES, "bright rows")


@pytest.fixture
def toy() -> Callable[..., Classifier]:
    """Makes the classifier of rows with a backdoor, or without."""

    def make(target: int | None = None, victim: int | None = None) -> Classifier:
        return Classifier(Rows(target, victim), NAMES, (1, SIDE, SIDE)).eval()

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches of a few steps in the place of `screen` and of all of the scanner's."""
    for name in ("SCREEN", "_PAIRS", "_AGAIN"):
        monkeypatch.setattr(distance, name, SHORT)
    monkeypatch.setitem(PROTOCOLS, "screen", SHORT)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
