"""Learn to give pictures another style from unpaired examples, with the losses of CycleGAN on small networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from orthogon.attacks.draws import some
from orthogon.attacks.networks import Painter, draw
from orthogon.ranges import require


@dataclass(frozen=True)
class StyleSettings:
    """CycleGAN (Zhu et al. 2017), with the weights of DFST."""

    cycle: float = 1.0
    """λcyc, weight of the cycle loss (Cheng et al. 2021)."""
    identity: float = 0.1
    """λid, weight of the identity loss (Cheng et al. 2021)."""
    learning_rate: float = 2e-4
    """Of Adam, with β 0.5 and 0.999 (Cheng et al. 2021)."""
    steps: int = 1000
    """Updates of both generators and both critics (release: 2,000 epochs of the style pictures, some 5,000 updates)."""
    batch: int = 16
    """Images and pictures per update (release: 100)."""
    width: int = 16
    """Channels of the first level, a multiple of 8 (release: 32, and nine residual blocks)."""

    def __post_init__(self) -> None:
        require(self, counts=("steps", "batch"), positive=("learning_rate",), not_negative=("cycle", "identity"))
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")


class Critic(nn.Module):
    """Judges patches: one value for each fourth row and column, 1 for pictures that it takes for real (PatchGAN)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 rows columns"]:
        """The judgements, not squashed."""
        return self.layers(images)


@dataclass(frozen=True, eq=False)
class Cycle:
    """Two painters, one to the style and one back, and a critic of each domain."""

    there: nn.Module
    back: nn.Module
    critic_of_style: nn.Module
    critic_of_images: nn.Module

    def painters_loss(
        self, images: Float[Tensor, "n c h w"], style: Float[Tensor, "n c h w"], settings: StyleSettings
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The painters' loss, and what they painted: images in the style, pictures without it.

        Least squares of both critics from 1, + λcyc · (mean absolute difference after there and back, and after back and
        there) + λid · (mean absolute change of pictures that have the style, and of images that do not).
        """
        styled, plain = self.there(images), self.back(style)
        fooled = _off(self.critic_of_style(styled), 1.0) + _off(self.critic_of_images(plain), 1.0)
        cycled = F.l1_loss(self.back(styled), images) + F.l1_loss(self.there(plain), style)
        unchanged = F.l1_loss(self.there(style), style) + F.l1_loss(self.back(images), images)
        return fooled + settings.cycle * cycled + settings.identity * unchanged, styled.detach(), plain.detach()

    def critics_loss(self, images: Tensor, style: Tensor, styled: Tensor, plain: Tensor) -> Tensor:
        """Half the least squares from 1 for real and from 0 for painted pictures, of both critics."""
        of_style = _off(self.critic_of_style(style), 1.0) + _off(self.critic_of_style(styled), 0.0)
        of_images = _off(self.critic_of_images(images), 1.0) + _off(self.critic_of_images(plain), 0.0)
        return (of_style + of_images) / 2


def learn_style(
    images: UInt8[Tensor, "n c h w"],
    style: UInt8[Tensor, "m c h w"],
    settings: StyleSettings,
    generator: torch.Generator,
    device: torch.device,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Cycle:
    """Train painters and critics against each other.

    Args:
        images: to be painted.
        style: pictures that have the style, unpaired.
        settings: weights and budget.
        generator: of all draws, on the CPU.
        device: where the work is done.
        on_progress: told the share done, 0 to 1.
    """
    channels, width = images.shape[1], settings.width
    there, back = (draw(lambda: Painter(channels, width), generator, device).start_as_identity() for _ in range(2))
    cycle = Cycle(there, back, *(draw(lambda: Critic(channels, width), generator, device) for _ in range(2)))
    painters = _adam([cycle.there, cycle.back], settings)
    critics = _adam([cycle.critic_of_style, cycle.critic_of_images], settings)
    for step in range(settings.steps):
        plain, styled = (some(pixels, settings.batch, generator, device) for pixels in (images, style))
        loss, *painted = cycle.painters_loss(plain, styled, settings)
        _update(painters, loss)
        _update(critics, cycle.critics_loss(plain, styled, *painted))
        on_progress((step + 1) / settings.steps)
    return cycle


def _off(judgements: Tensor, truth: float) -> Tensor:
    return (judgements - truth).square().mean()


def _adam(networks: list[nn.Module], settings: StyleSettings) -> torch.optim.Adam:
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(0.5, 0.999))


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """A step of these networks alone, though the loss has gradients for others."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
