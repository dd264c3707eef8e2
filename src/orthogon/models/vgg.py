"""VGG-13 and VGG-19 with BatchNorm for small images, and the small VGG of the I-BAU release's planted models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import no_type_check

from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal

VGG13 = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
SMALL = ((32, 32), (64, 64), (128, 128))
SMALL_DROPOUT = (0.2, 0.3, 0.4)
SMALL_GRID = 4
"""Side of the last map for 32x32 images; other sizes are averaged to it."""


class VGG(nn.Module):
    """Simonyan and Zisserman 2015 with BatchNorm and, as usual on CIFAR, one linear layer as head.

    Args:
        stages: the widths of the convolutions between two poolings (`VGG13`, `VGG19`).
        classes: number of logits.
        channels: channels of the images (n, channels, h, w); h and w at least 32, the last map is averaged.
    """

    def __init__(self, stages: Sequence[tuple[int, ...]], classes: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for widths in stages:
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        return self.classifier(self.features(images).mean((2, 3)))


class SmallVGG(nn.Module):
    """Six convolutions in three stages, each conv-BN-ELU, pooling and dropout after a stage, one linear layer.

    Takes images (n, channels, h, w), h and w at least 8, returns logits (n, classes). The dropout rates are those of
    the Keras recipe that this network comes from (they matter for training only).
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for widths, dropout in zip(SMALL, SMALL_DROPOUT, strict=True):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ELU()]
                channels = width
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(SMALL_GRID)
        self.classifier = nn.Linear(channels * SMALL_GRID**2, classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        return self.classifier(self.pool(self.features(images)).flatten(1))
