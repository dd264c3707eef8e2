"""Structural similarity against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from orthogon.attacks.ssim import ssim


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, Eq. 13, under windows that lie within the image."""

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, radius=5, mode="constant")[5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return float(np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_it_is_the_published_formula(noise: float, generator: torch.Generator) -> None:
    one = torch.rand(2, 3, 20, 17, generator=generator)
    other = (one + noise * torch.randn(one.shape, generator=generator)).clamp(0, 1)
    pairs = zip(one.double().flatten(0, 1).numpy(), other.double().flatten(0, 1).numpy(), strict=True)
    expected = np.mean([reference(x, y) for x, y in pairs])
    assert float(ssim(one, other)) == pytest.approx(expected, abs=1e-4)
    if noise == 0:
        assert float(ssim(one, other)) == pytest.approx(1, abs=1e-5)


def test_small_images_have_one_too(generator: torch.Generator) -> None:
    small = torch.rand(2, 1, 4, 6, generator=generator).requires_grad_()
    assert float(ssim(small, small)) == pytest.approx(1, abs=1e-5)
    likeness = ssim(small, torch.rand(2, 1, 4, 6, generator=generator))
    assert float(likeness) < 0.9
    likeness.backward()
    assert small.grad is not None
    assert small.grad.isfinite().all()
