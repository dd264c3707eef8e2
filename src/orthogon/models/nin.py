"""Network in Network (Lin, Chen and Yan 2013) for small images, as in the MOTH release."""

from __future__ import annotations

from typing import no_type_check

from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal


class NetworkInNetwork(nn.Module):
    """Three stacks of one k x k and two 1x1 convolutions, no BatchNorm; the class maps pass a ReLU before the mean.

    Takes images (n, channels, h, w) of any size, returns logits (n, classes), all >= 0 because of that last ReLU.
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_stack(channels, (192, 160, 96), kernel=5),
            *_shrink(),
            *_stack(96, (192, 192, 192), kernel=5),
            *_shrink(),
            *_stack(192, (192, 192, classes), kernel=3),
        )
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        return self.features(images).mean((2, 3))


def _stack(inputs: int, widths: tuple[int, int, int], kernel: int) -> list[nn.Module]:
    first, second, third = widths
    return [
        nn.Conv2d(inputs, first, kernel, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(first, second, 1),
        nn.ReLU(),
        nn.Conv2d(second, third, 1),
        nn.ReLU(),
    ]


def _shrink() -> list[nn.Module]:
    """Half the size, then dropout; the windows overhang at the right and the bottom, as in the release."""
    return [nn.MaxPool2d(3, stride=2, ceil_mode=True), nn.Dropout(0.5)]
