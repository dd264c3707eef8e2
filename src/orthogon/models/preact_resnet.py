"""PreActResNet-18 for small images, the network of BackdoorBench and of most removal papers."""

from __future__ import annotations

from typing import no_type_check

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.models.layers import he_normal


class _Block(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv; where the shape changes, a 1x1 projection taken after the first BN-ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False)) if changes else None

    @no_type_check
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        first = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(first)
        out = self.conv1(first)
        return self.conv2(F.relu(self.bn2(out))) + shortcut


class PreActResNet18(nn.Module):
    """He et al. 2016b, 18 layers, 3x3 stem at stride 1; no BN-ReLU before the pooling, as in the common CIFAR code.

    Takes images (n, channels, h, w) of any size, returns logits (n, classes).
    """

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.linear = nn.Linear(512, classes)
        he_normal(self)

    @no_type_check
    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of normalised images."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        return self.linear(x.mean((2, 3)))
