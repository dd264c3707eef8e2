"""Two colour scales, uniform in lightness by construction (OKLab), each for light paper and for dark screens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

LEVELS = 64
"""Steps of the distance scale: 0 is the smallest distance (the strongest colour), 63 the largest."""
RATIO_LEVELS = 41
"""Steps of the ratio scale: the one in the middle is "as before"."""

_Rgb = tuple[int, int, int]
_Oklch = tuple[float, float, float]

# Lightness, chroma, hue in degrees. A small distance is the dangerous one: dark on paper, glowing on a dark screen.
_NEAR_FAR_LIGHT: tuple[_Oklch, ...] = (
    (0.39, 0.125, 15.0),
    (0.535, 0.165, 28.0),
    (0.68, 0.145, 50.0),
    (0.825, 0.1, 78.0),
    (0.97, 0.022, 95.0),
)
_NEAR_FAR_DARK: tuple[_Oklch, ...] = (
    (0.89, 0.13, 92.0),
    (0.735, 0.155, 58.0),
    (0.58, 0.165, 27.0),
    (0.425, 0.115, 350.0),
    (0.27, 0.045, 310.0),
)
_RATIO_LIGHT: tuple[_Oklch, ...] = (
    (0.5, 0.16, 28.0),
    (0.735, 0.1, 32.0),
    (0.97, 0.004, 90.0),
    (0.735, 0.085, 240.0),
    (0.5, 0.12, 250.0),
)
_RATIO_DARK: tuple[_Oklch, ...] = (
    (0.76, 0.15, 38.0),
    (0.52, 0.11, 32.0),
    (0.28, 0.004, 270.0),
    (0.52, 0.085, 245.0),
    (0.76, 0.11, 235.0),
)
_INK, _PAPER = (20, 18, 24), (255, 255, 255)


def near_far(level: int, dark: bool = False) -> _Rgb:
    """sRGB of a step of the distance scale, 0 (nearest) to LEVELS - 1 (farthest)."""
    return _at(_NEAR_FAR_DARK if dark else _NEAR_FAR_LIGHT, level / (LEVELS - 1))


def level_of(value: float, low: float, high: float) -> int:
    """The step of the distance scale for a value between low and high (values outside go to the ends)."""
    share = (value - low) / (high - low) if high > low else 0.0
    return round(min(max(share, 0.0), 1.0) * (LEVELS - 1))


def ratio_level(ratio: float, reach: float) -> int:
    """The step of the ratio scale; reach is the |log2 ratio| at its two ends."""
    share = math.log2(ratio) / reach if ratio > 0 else -1.0
    return round((min(max(share, -1.0), 1.0) + 1) / 2 * (RATIO_LEVELS - 1))


def count_level(count: int, most: int) -> int:
    """The step of the ratio scale's upper half for a count: never is its middle, most its end."""
    middle = RATIO_LEVELS // 2
    return middle + round(middle * count / most) if most else middle


@cache
def of_class(name: str) -> _Rgb:
    """sRGB on light paper of a CSS class, q0…q63 or r0…r40."""
    level = int(name[1:])
    return near_far(level) if name.startswith("q") else _at(_RATIO_LIGHT, level / (RATIO_LEVELS - 1))


def ink_on(background: _Rgb) -> _Rgb:
    """Dark or light text, whichever has the higher contrast (WCAG 2) on that background."""
    return max((_INK, _PAPER), key=lambda ink: contrast(ink, background))


def contrast(first: _Rgb, second: _Rgb) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def css_hex(colour: _Rgb) -> str:
    """As #rrggbb."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def style_rules() -> str:
    """CSS classes q0…q63 (distances) and r0…r40 (ratios), and the ramps --near-far, --ratio and --count."""
    return f"{_theme(dark=False)}@media screen and (prefers-color-scheme:dark){{{_theme(dark=True)}}}\n"


def _theme(dark: bool) -> str:
    ratios = [_at(_RATIO_DARK if dark else _RATIO_LIGHT, k / (RATIO_LEVELS - 1)) for k in range(RATIO_LEVELS)]
    distances = [near_far(k, dark) for k in range(LEVELS)]
    ramps = f":root{{--near-far:{_ramp(distances)};--ratio:{_ramp(ratios)};--count:{_ramp(ratios[RATIO_LEVELS // 2 :])}}}\n"
    return ramps + _classes("q", distances) + _classes("r", ratios)


def _classes(letter: str, colours: Sequence[_Rgb]) -> str:
    return "".join(
        f".{letter}{k}{{background:{css_hex(colour)};color:{css_hex(ink_on(colour))}}}\n" for k, colour in enumerate(colours)
    )


def _ramp(colours: Sequence[_Rgb]) -> str:
    return ",".join(css_hex(colour) for colour in colours[:: max(1, len(colours) // 10)])


def _at(stops: Sequence[_Oklch], share: float) -> _Rgb:
    """Linear between the stops in OKLab, where equal steps look equal."""
    position = share * (len(stops) - 1)
    left = min(int(position), len(stops) - 2)
    mix = position - left
    ends = (_oklab(stops[left]), _oklab(stops[left + 1]))
    return _srgb(*((1 - mix) * a + mix * b for a, b in zip(*ends, strict=True)))


def _oklab(colour: _Oklch) -> tuple[float, float, float]:
    lightness, chroma, hue = colour
    return lightness, chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))


def _srgb(lightness: float, a: float, b: float) -> _Rgb:
    """OKLab to sRGB; the matrices are Ottosson's ("A perceptual color space for image processing", 2020)."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (_gamma(min(max(part, 0.0), 1.0)) for part in linear)
    return red, green, blue


def _gamma(linear: float) -> int:
    encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * encoded)


def _luminance(colour: _Rgb) -> float:
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
