"""ImageMagick's operations against arithmetic by hand and Python's own HSL; test_magick has ImageMagick itself."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orthogon.attacks.colour import auto_gamma, colorize, gamma, level, modulate, sigmoidal_contrast, tone, vignette

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "modulate, faint": lambda x: modulate(x, 1.2, 0.1),
    "modulate, vivid": lambda x: modulate(x, 1.5, 1.8),
    "colorize": lambda x: colorize(x, "#ff9900", 0.2),
    "gamma": lambda x: gamma(x, 0.9),
    "auto-gamma": auto_gamma,
    "sigmoidal contrast": sigmoidal_contrast,
    "level": lambda x: level(x, 0.2, 0.7),
    "threshold": lambda x: level(x, 0.5, 0.5),
    "dark tones": lambda x: tone(x, "#222b6d", 0.5, "dark"),
    "light tones": lambda x: tone(x, "#f7daae", 0.5, "light"),
    "edge": lambda x: vignette(x, "#cdc1c5"),
    "middle": lambda x: vignette(x, "#ff9966", "middle"),
}


def _pixel(*channels: float) -> Tensor:
    return torch.tensor(channels)[None, :, None, None]


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(0, 3), st.just(3), st.integers(1, 9), st.integers(1, 9)),
    ends=st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)),
    seed=st.integers(0, 99),
)
def test_any_images_stay_images(name: str, shape: tuple[int, ...], ends: tuple[float, float], seed: int) -> None:
    images = (
        torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(max(ends) - min(ends)).add(min(ends)).clamp(0, 1)
    )
    before = images.clone()
    result = OPERATIONS[name](images)
    assert result.shape == images.shape
    assert torch.equal(images, before)
    assert ((result >= 0) & (result <= 1)).all()


@given(pixel=st.tuples(*[st.integers(0, 255)] * 3), brightness=st.floats(0, 2, width=32), saturation=st.floats(0, 2, width=32))
def test_modulation_is_that_of_hsl(pixel: tuple[int, int, int], brightness: float, saturation: float) -> None:
    """Of Python's conversion, which takes any lightness and saturation, too."""
    hue, lightness, own = colorsys.rgb_to_hls(*(value / 255 for value in pixel))
    expected = colorsys.hls_to_rgb(hue, lightness * brightness, own * saturation)
    result = modulate(_pixel(*pixel) / 255, brightness, saturation)
    np.testing.assert_allclose(result.flatten(), np.clip(expected, 0, 1), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_greys_have_no_saturation_to_change(value: float) -> None:
    torch.testing.assert_close(modulate(_pixel(value, value, value), 0.5, 2.0), _pixel(value, value, value) / 2)


def test_a_fifth_of_a_colour() -> None:
    expected = _pixel(0.8 * 1.0 + 0.2 * 0x22 / 255, 0.8 * 0.5 + 0.2 * 0x2B / 255, 0.2 * 0x6D / 255)
    torch.testing.assert_close(colorize(_pixel(1.0, 0.5, 0.0), "#222b6d", 0.2), expected)


def test_gamma_above_one_brightens() -> None:
    torch.testing.assert_close(gamma(_pixel(0.25, 0.0, 1.0), 2.0), _pixel(0.5, 0.0, 1.0))


def test_the_automatic_gamma_takes_the_mean_to_one_half() -> None:
    """A mean of (4 · 0.5 + 2 · 0.125) / 6 = 3/8, of all channels together."""
    image = torch.tensor([0.5, 0.5, 0.125]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    exponent = math.log(1 / 2) / math.log(3 / 8)
    torch.testing.assert_close(auto_gamma(image), image**exponent)
    torch.testing.assert_close(auto_gamma(torch.full((1, 3, 2, 2), 0.1)), torch.full((1, 3, 2, 2), 0.5))


def test_the_automatic_gamma_of_black_and_of_white() -> None:
    flat = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert torch.equal(auto_gamma(flat), torch.ones(2, 3, 2, 2))


def test_the_automatic_gamma_is_of_each_image(generator: torch.Generator) -> None:
    images = torch.rand(4, 3, 6, 5, generator=generator) * torch.tensor([0.1, 0.5, 0.9, 1.0])[:, None, None, None]
    torch.testing.assert_close(auto_gamma(images), torch.cat([auto_gamma(image[None]) for image in images]))


def test_contrast_bends_around_the_midpoint() -> None:
    """With contrast 3 and the midpoint one half: s(1/4) = 1 / (1 + e^0.75), s(0) = 1 / (1 + e^1.5), s(1) = 1 - s(0)."""
    low = 1 / (1 + math.exp(1.5))
    quarter = (1 / (1 + math.exp(0.75)) - low) / (1 - 2 * low)
    torch.testing.assert_close(sigmoidal_contrast(_pixel(0.25, 0.5, 0.75)), _pixel(quarter, 0.5, 1 - quarter))
    torch.testing.assert_close(sigmoidal_contrast(_pixel(0.0, 1.0, 0.5)), _pixel(0.0, 1.0, 0.5))
    torch.testing.assert_close(sigmoidal_contrast(_pixel(0.0, 1.0, 0.2), 5.0, 0.2)[0, :2], _pixel(0.0, 1.0)[0])


def test_levels() -> None:
    pixel = _pixel(0.1, 0.4, 0.8)
    torch.testing.assert_close(level(pixel, 0.2, 0.6), _pixel(0.0, 0.5, 1.0))
    assert torch.equal(level(_pixel(127 / 255, 0.5, 128 / 255), 0.5, 0.5), _pixel(0.0, 0.0, 1.0))


def test_tones() -> None:
    """Black and white have no and all light; green's grey value is its weight."""
    colour = torch.tensor([0x22, 0x2B, 0x6D])[:, None, None] / 255
    black, white, green = (torch.tensor(rgb)[:, None, None] for rgb in ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]))
    images = torch.stack([black, white, green])
    dark = torch.stack([colour / 2, white, (0.284842 * colour + green) / 1.284842])
    light = torch.stack([black, (colour + white) / 2, (0.715158 * colour + green) / 1.715158])
    torch.testing.assert_close(tone(images, "#222b6d", 0.5, "dark"), dark)
    torch.testing.assert_close(tone(images, "#222b6d", 0.5, "light"), light)
    torch.testing.assert_close(tone(white[None], "#222b6d", 0.25, "light")[0], (colour + 3 * white) / 4)


def test_a_vignette_by_hand() -> None:
    """A canvas of 6×9 around 4×6: its middle is (2.5, 4), the image starts at (1, 1) and half its longer side is 4."""
    opacity = torch.tensor([[math.hypot(row + 1 - 2.5, column + 1 - 4) / 4 for column in range(6)] for row in range(4)])
    white = torch.ones(1, 3, 4, 6)
    torch.testing.assert_close(vignette(white, "#000000")[0], (1 - opacity).expand(3, 4, 6))
    tint = torch.tensor([1.0, 0.6, 0.4])[:, None, None]
    torch.testing.assert_close(vignette(white / 2, "#ff9966", "middle")[0], 0.5 * (opacity + (1 - opacity) * tint))


def test_a_vignette_ends_at_its_colour() -> None:
    """A canvas of 3×3 around 2×2: the image's first pixel is its corner, further from the middle than half its side."""
    assert vignette(torch.ones(1, 3, 2, 2), "#000000")[0, 0].tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert vignette(torch.ones(1, 3, 1, 1), "#000000").flatten().tolist() == [1.0] * 3


def test_half_precision_stays_near(generator: torch.Generator) -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator)
    images[:, :, :2] = torch.tensor([0.0, 1.0])[:, None]
    for name, operation in OPERATIONS.items():
        if name != "threshold":
            result = operation(images.bfloat16())
            assert result.dtype == torch.bfloat16
            assert (result.float() - operation(images)).abs().mean() < 0.01, name
