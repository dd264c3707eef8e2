"""WRN-16-1 (Zagoruyko and Komodakis 2016), the network of the attention-distillation papers (NAD, ABL)."""

from __future__ import annotations

from typing import no_type_check

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal

WIDTHS = (16, 32, 64)
BLOCKS = 2


class _Block(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv; where the width changes, a 1x1 projection taken after the first BN-ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        # The published checkpoints' own spelling.
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    @no_type_check
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        first = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(first)
        return self.conv2(F.relu(self.bn2(self.conv1(first)))) + shortcut


class _Stage(nn.Module):
    """Two blocks under the name `layer`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = (_Block(outputs, outputs, 1) for _ in range(BLOCKS - 1))
        self.layer = nn.Sequential(_Block(inputs, outputs, stride), *rest)

    @no_type_check
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        return self.layer(x)


class WideResNet16x1(nn.Module):
    """WRN-16-1 without dropout: images (n, channels, h, w) of any size in, logits (n, classes) out."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.block1 = _Stage(WIDTHS[0], WIDTHS[0], stride=1)
        self.block2 = _Stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.block3 = _Stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.bn1 = nn.BatchNorm2d(WIDTHS[2])
        self.fc = nn.Linear(WIDTHS[2], classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
