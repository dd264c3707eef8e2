"""Style: the losses of CycleGAN written out, and a style that is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orthogon.attacks.networks import Painter, draw
from orthogon.attacks.style import Critic, Cycle, StyleSettings, learn_style

CPU = torch.device("cpu")
QUICK = StyleSettings(steps=40, batch=8, width=8, learning_rate=0.005)


class Shift(nn.Module):
    """A painter that can be seen through: adds to every value."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, images: Tensor) -> Tensor:
        """Brighter or darker images."""
        return images + self.by


class Mean(nn.Module):
    """A critic that can be seen through: one judgement per image."""

    def forward(self, images: Tensor) -> Tensor:
        """Mean values."""
        return images.mean((1, 2, 3), keepdim=True)


def test_the_losses_are_cyclegan_s() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(3, 3, 4, 4, generator=generator), torch.rand(3, 3, 4, 4, generator=generator)
    cycle = Cycle(Shift(0.2), Shift(-0.5), Mean(), Mean())
    mx, my = x.numpy().mean((1, 2, 3)), y.numpy().mean((1, 2, 3))
    loss, styled, plain = cycle.painters_loss(x, y, StyleSettings(cycle=3.0, identity=0.5))
    fooled = ((mx + 0.2 - 1) ** 2).mean() + ((my - 0.5 - 1) ** 2).mean()
    assert float(loss) == pytest.approx(float(fooled + 3.0 * (0.3 + 0.3) + 0.5 * (0.2 + 0.5)), rel=1e-5)
    torch.testing.assert_close(styled, x + 0.2)
    torch.testing.assert_close(plain, y - 0.5)
    real = ((my - 1) ** 2).mean() + ((mx - 1) ** 2).mean()
    fake = ((mx + 0.2) ** 2).mean() + ((my - 0.5) ** 2).mean()
    assert float(cycle.critics_loss(x, y, styled, plain)) == pytest.approx(float((real + fake) / 2), rel=1e-5)


def domains() -> tuple[Tensor, Tensor]:
    """Grey noise, and pictures that are as varied but orange."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(90, 166, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    orange = torch.randint(-30, 31, (40, 3, 8, 8), generator=generator) + torch.tensor([200, 120, 50])[:, None, None]
    return grey, orange.byte()


def test_images_take_on_the_colours_of_the_style_and_keep_what_they_show() -> None:
    grey, orange = domains()
    told: list[float] = []
    cycle = learn_style(grey, orange, QUICK, torch.Generator().manual_seed(0), CPU, told.append)
    images = grey.float() / 255
    with torch.no_grad():
        painted = cycle.there(images)
        restored = cycle.back(painted)
    red, green, blue = painted.mean((0, 2, 3)).tolist()
    assert red > green > blue
    assert red - blue > 0.3  # of 150 levels, 0.59, in the pictures; nothing in the images
    both = np.corrcoef(images.mean(1).flatten().numpy(), painted.mean(1).flatten().numpy())
    assert both[0, 1] > 0.6
    assert (restored - images).abs().mean() < (painted - images).abs().mean()
    assert told == [pytest.approx((step + 1) / 40) for step in range(40)]


def test_the_critic_judges_patches() -> None:
    critic = draw(lambda: Critic(3, 8), torch.Generator().manual_seed(0), CPU)
    assert critic(torch.rand(2, 3, 32, 40)).shape == (2, 1, 8, 10)
    assert critic(torch.rand(2, 3, 4, 4)).shape == (2, 1, 1, 1)


def test_each_side_learns_from_its_own_loss_alone() -> None:
    """One step of learning rate r moves a weight by r (Adam); critics are not moved by what the painters want."""
    grey, orange = domains()
    settings = replace(QUICK, steps=1)
    cycle = learn_style(grey, orange, settings, torch.Generator().manual_seed(0), CPU)
    generator = torch.Generator().manual_seed(0)
    fresh = [draw(lambda: Painter(3, 8), generator, CPU) for _ in range(2)]
    critics = [draw(lambda: Critic(3, 8), generator, CPU) for _ in range(2)]
    for before, after in zip(critics, (cycle.critic_of_style, cycle.critic_of_images), strict=True):
        moved = [float((a - b).detach().abs().max()) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
        assert max(moved) == pytest.approx(settings.learning_rate, rel=1e-3)
    assert (cycle.there.change.last.weight != 0).any()
    assert fresh[0].change.last.weight.shape == cycle.there.change.last.weight.shape


def test_misuse_is_told() -> None:
    for wrong in ({"steps": 0}, {"batch": 0}, {"cycle": -1.0}, {"learning_rate": 0.0}, {"width": 4}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(StyleSettings(), **wrong)
