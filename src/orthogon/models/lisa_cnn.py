"""LISA-CNN (Eykholt et al. 2018): three convolutions and one linear layer for US traffic signs, 18 classes."""

from __future__ import annotations

from typing import no_type_check

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal

GRID = 2
"""Side of the last map for 32x32 images; other sizes are averaged to it."""


class LisaCNN(nn.Module):
    """Images (n, channels, h, w), h and w at least 24, in; logits (n, classes) out."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        # Padding 3 is TensorFlow's "same" for kernel 8 at stride 2 on an even size.
        self.conv1 = nn.Conv2d(channels, 64, 8, stride=2, padding=3)
        self.conv2 = nn.Conv2d(64, 128, 6, stride=2)
        self.conv3 = nn.Conv2d(128, 128, 5)
        self.pool = nn.AdaptiveAvgPool2d(GRID)
        self.fc = nn.Linear(128 * GRID**2, classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        x = F.relu(self.conv1(images))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return self.fc(self.pool(x).flatten(1))
