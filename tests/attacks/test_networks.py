"""The attacks' networks: any size, drawn from their generator, and the same after being kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orthogon.attacks.networks import Painter, UNet, draw, keep, take

CPU = torch.device("cpu")


def unet(seed: int = 0, outputs: int = 1) -> UNet:
    return draw(lambda: UNet(3, outputs, 8), torch.Generator().manual_seed(seed), CPU)


@pytest.mark.parametrize("size", [(32, 32), (7, 9), (1, 1), (2, 5), (28, 28)])
def test_every_size_will_do(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    assert unet(outputs=2)(images).shape == (2, 2, *size)
    assert unet()(images[:0]).shape == (0, 1, *size)


def test_a_network_sees_the_whole_of_a_small_image() -> None:
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    unet()(images)[0, 0, 0, 0].backward()
    assert images.grad is not None
    assert images.grad[0, :, 12, 12].abs().sum() > 0


def test_weights_are_the_generator_s_and_torch_s_own_draws_are_not_felt() -> None:
    state = torch.random.get_rng_state()
    one, again, other = unet(0), unet(0), unet(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.last.weight, other.last.weight)
    for module in one.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert float(module.weight.detach().square().mean()) == pytest.approx(
                2 / 1.04 / fan_in, rel=0.35
            )  # He et al., slope 0.2


def test_a_kept_network_comes_back_frozen() -> None:
    images = torch.rand(2, 3, 8, 8)
    made = keep(unet(3), "mask") | keep(unet(4), "other")
    back = take(lambda: UNet(3, 1, 8), made, "mask", CPU)
    assert torch.equal(back(images), unet(3)(images))
    assert not any(p.requires_grad for p in back.parameters())
    with pytest.raises(ValueError, match="holds no pattern of these settings"):
        take(lambda: UNet(3, 1, 8), made, "pattern", CPU)
    with pytest.raises(ValueError, match="holds no mask of these settings"):
        take(lambda: UNet(3, 1, 16), made, "mask", CPU)


def test_a_painter_starts_as_the_identity_and_stays_in_range() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([torch.rand(2, 3, 8, 8, generator=generator), torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)])
    painter = draw(lambda: Painter(3, 8), generator, CPU)
    drawn = painter(images)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (drawn - images).abs().mean() > 0.05
    same = painter.start_as_identity()(images)
    torch.testing.assert_close(same, images, atol=0.5 / 255 + 1e-6, rtol=0)
    nn.init.constant_(painter.change.last.bias, 1.0)
    torch.testing.assert_close(painter(images[:2]), torch.sigmoid(torch.logit(images[:2], eps=0.5 / 255) + 1))
