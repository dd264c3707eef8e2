"""Structural similarity of images, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def ssim(one: Float[Tensor, "n c h w"], other: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Mean structural similarity of images in [0, 1] (Wang et al. 2004, Eq. 13): 1 for equal ones.

    Means, variances and the covariance are taken under a Gaussian window of 11×11 pixels with a deviation of 1.5, one for each
    place where it fits on the image; smaller images get a smaller window.
    """
    channels, side = one.shape[1], min(11, *one.shape[2:])
    offsets = torch.arange(side, device=one.device) - (side - 1) / 2
    weights = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    weights = weights / weights.sum()
    window = (weights[:, None] * weights).expand(channels, 1, side, side)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window, groups=channels)

    mean_one, mean_other = mean(one), mean(other)
    variances = mean(one * one) - mean_one**2 + mean(other * other) - mean_other**2
    covariance = mean(one * other) - mean_one * mean_other
    light = (2 * mean_one * mean_other + 0.01**2) / (mean_one**2 + mean_other**2 + 0.01**2)
    return (light * (2 * covariance + 0.03**2) / (variances + 0.03**2)).mean()
