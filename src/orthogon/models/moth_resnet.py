"""The pre-activation ResNets of the MOTH authors' Keras release, which are not He's: see `MothResNet`."""

from __future__ import annotations

from typing import no_type_check

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal

WIDTHS = (16, 32, 64)


class _Block(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv; where it shrinks, the shortcut is a projection taken after the first BN-ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1 if stride == 1 else 0)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.proj = None if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    @no_type_check
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        first = F.relu(self.bn1(x))
        if self.proj is None:
            shortcut, inner = x, first
        else:
            # TensorFlow's "same" at stride 2 on an even size pads the right and the bottom only.
            shortcut, inner = self.proj(first), F.pad(first, (0, 1, 0, 1))
        out = F.relu(self.bn2(self.conv1(inner)))
        return self.conv2(out) + shortcut


class MothResNet(nn.Module):
    """Pre-activation ResNet of the MOTH release: biased convolutions, TensorFlow padding, projections after BN-ReLU.

    Args:
        depth: number of weighted layers, 6n + 2; the paper's ResNet20, ResNet32 and ResNet50 are n = 3, 5 and 8.
        classes: number of logits.
        channels: channels of the images.
        size: (height, width) of the images, both divisible by 4 (the padding is fixed for even sizes).

    Raises:
        ValueError: a depth that is not 6n + 2, or a size not divisible by 4.
    """

    def __init__(self, depth: int, classes: int, channels: int = 3, size: tuple[int, int] = (32, 32)) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a MOTH ResNet has 6n + 2 layers (20, 32, 50), not {depth}")
        if size[0] % 4 or size[1] % 4:
            raise ValueError(f"a MOTH ResNet needs height and width divisible by 4, got {size[0]}x{size[1]}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1)
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(WIDTHS[2])
        self.linear = nn.Linear(WIDTHS[2], classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(inputs, outputs, stride)
    return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))
