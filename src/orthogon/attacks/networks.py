"""The small networks that attacks learn: a U-Net for images of any size; weights that are drawn, kept and taken up again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.attacks.attack import Made

_Network = TypeVar("_Network", bound=nn.Module)


class UNet(nn.Module):
    """Two halvings down and up again, each level joined with what it was on the way down (Ronneberger et al. 2015).

    Images of an odd side are halved upwards and brought back to the level's own size, so that every size will do. Groups are
    normalised, not batches: what comes out for an image depends on that image alone.

    Args:
        channels: of the images.
        outputs: channels of the result, which is not squashed.
        width: channels of the first level, a multiple of 8; each level below has twice as many.
    """

    def __init__(self, channels: int, outputs: int, width: int = 16) -> None:
        super().__init__()
        sizes = (width, 2 * width, 4 * width)
        self.down = nn.ModuleList([_block(channels, sizes[0]), _block(sizes[0], sizes[1]), _block(sizes[1], sizes[2])])
        self.up = nn.ModuleList([_block(sizes[2] + sizes[1], sizes[1]), _block(sizes[1] + sizes[0], sizes[0])])
        self.last = nn.Conv2d(sizes[0], outputs, 3, padding=1)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n outputs h w"]:
        """One value per pixel and output, of any size."""
        levels = [self.down[0](images)]
        for block in self.down[1:]:
            levels.append(block(F.avg_pool2d(levels[-1], 2, ceil_mode=True)))
        below = levels.pop()
        for block in self.up:
            level = levels.pop()
            below = block(torch.cat([F.interpolate(below, size=level.shape[2:]), level], 1))
        return self.last(below)


class Painter(nn.Module):
    """Changes images: a U-Net says by how much each value's logit moves, so that results stay in [0, 1].

    Args:
        channels: of the images.
        width: of the U-Net.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.change = UNet(channels, channels, width)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images in [0, 1] as changed; black and white count as half a grey level off, for their logits are infinite."""
        return torch.sigmoid(torch.logit(images, eps=0.5 / 255) + self.change(images))

    def start_as_identity(self) -> Painter:
        """Make the painter leave images as they are, from where it learns sooner than from a random picture."""
        nn.init.zeros_(self.change.last.weight)
        return self


def _block(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.LeakyReLU(0.2))


def draw(build: Callable[[], _Network], generator: torch.Generator, device: torch.device) -> _Network:
    """A network whose convolutions are drawn from the generator (He et al. 2015), with biases of 0."""
    network = _built(build)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.2, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.to(device)


def keep(network: nn.Module, name: str) -> Made:
    """The network's weights under `name`, for what an attack has made."""
    return {f"{name}.{key}": tensor.detach().clone() for key, tensor in network.state_dict().items()}


def take(build: Callable[[], _Network], made: Made, name: str, device: torch.device) -> _Network:
    """The network of that name again, frozen.

    Raises:
        ValueError: what was made does not hold such a network.
    """
    network = _built(build)
    weights = {key.removeprefix(f"{name}."): t.to(device) for key, t in made.items() if key.startswith(f"{name}.")}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"what was made holds no {name} of these settings: {error}") from error
    return network.requires_grad_(False).eval()


def _built(build: Callable[[], _Network]) -> _Network:
    with torch.random.fork_rng(devices=[]):  # torch's own draws are thrown away; they shall not be felt
        return build()
