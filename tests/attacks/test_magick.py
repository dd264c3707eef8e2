"""The filters and their operations against ImageMagick's own output, through wand; skipped where either is missing.

What is written here with wand follows TrojAI's recipes (which need version 7 by one name alone: copying opacity is called
copy_alpha there). Differences are in grey levels of 255.
"""

from __future__ import annotations

from collections.abc import Callable
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orthogon.attacks import colour
from orthogon.attacks.filters import FILTERS, Filter
from orthogon.data import open_images
from orthogon.data.signs import signs

wand = pytest.importorskip("wand.image", reason="needs wand and ImageMagick's MagickWand", exc_type=ImportError)
from wand.color import Color  # noqa: E402
from wand.drawing import Drawing  # noqa: E402

Picture = Any  # wand.image.Image; wand has no types
REACH = 0.1
"""The issue asks for 2.0; what is left is ImageMagick's rounding to 16 bits (8 bits where it was built so)."""
SIZES = (32, 64)


def _contrast(picture: Picture) -> None:
    picture.sigmoidal_contrast(True, 3, 0.5 * picture.quantum_range)


def _tone(picture: Picture, tint: str, percent: int, dark: bool) -> None:
    with picture.clone() as opacity, picture.clone() as tinted:
        opacity.colorspace = "gray"
        if dark:
            opacity.negate()
        opacity.alpha_channel = "copy"
        tinted.colorize(Color(tint), Color("white"))
        copying = {"copy_opacity", "copy_alpha"} & set(wand.COMPOSITE_OPERATORS)
        tinted.composite_channel("alpha", opacity, copying.pop())
        picture.composite_channel("default_channels", tinted, "blend", arguments=f"{percent},{100 - percent}")


def _vignette(picture: Picture, middle: str, edge: str) -> None:
    with wand.Image() as gradient:
        sides = {"width": floor(1.5 * picture.width), "height": floor(1.5 * picture.height)}
        gradient.pseudo(**sides, pseudo=f"radial-gradient:{middle}-{edge}")
        gradient.crop(width=picture.width, height=picture.height, gravity="center")
        gradient.reset_coords()
        picture.composite_channel("default_channels", gradient, "multiply")
    picture.merge_layers("flatten")


def _overlay(picture: Picture) -> None:
    with Drawing() as drawing:
        drawing.fill_color = "#FF9900"
        drawing.fill_opacity = 0.2
        drawing.rectangle(left=0, top=0, width=picture.width, height=picture.height)
        drawing(picture)


def _gotham(picture: Picture) -> None:
    picture.modulate(120, 10, 100)
    picture.colorize(Color("#222b6d"), Color("#333333"))
    picture.gamma(0.9)
    _contrast(picture)
    _contrast(picture)


def _nashville(picture: Picture) -> None:
    _tone(picture, "#222b6d", 50, dark=True)
    _tone(picture, "#f7daae", 50, dark=False)
    _contrast(picture)
    picture.modulate(100, 150, 100)
    picture.auto_gamma()


def _kelvin(picture: Picture) -> None:
    picture.auto_gamma()
    picture.modulate(120, 50, 100)
    _overlay(picture)


def _lomo(picture: Picture) -> None:
    picture.level(0.5, channel="red")
    picture.level(0.5, channel="green")
    _vignette(picture, "none", "black")


def _toaster(picture: Picture) -> None:
    _tone(picture, "#330000", 50, dark=True)
    picture.modulate(150, 80, 100)
    picture.gamma(1.2)
    _contrast(picture)
    _contrast(picture)
    _vignette(picture, "none", "LavenderBlush3")
    _vignette(picture, "#ff9966", "none")


RECIPES = {"gotham": _gotham, "nashville": _nashville, "kelvin": _kelvin, "lomo": _lomo, "toaster": _toaster}

OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Picture], object]]] = {
    "modulate, faint": (lambda x: colour.modulate(x, 1.2, 0.1), lambda p: p.modulate(120, 10, 100)),
    "modulate, vivid": (lambda x: colour.modulate(x, 1.0, 1.5), lambda p: p.modulate(100, 150, 100)),
    "modulate, bright": (lambda x: colour.modulate(x, 1.5, 0.8), lambda p: p.modulate(150, 80, 100)),
    "colorize": (lambda x: colour.colorize(x, "#222b6d", 0.2), lambda p: p.colorize(Color("#222b6d"), Color("#333333"))),
    "overlay": (lambda x: colour.colorize(x, "#ff9900", 0.2), _overlay),
    "gamma, darker": (lambda x: colour.gamma(x, 0.9), lambda p: p.gamma(0.9)),
    "gamma, brighter": (lambda x: colour.gamma(x, 1.2), lambda p: p.gamma(1.2)),
    "auto-gamma": (colour.auto_gamma, lambda p: p.auto_gamma()),
    "sigmoidal contrast": (colour.sigmoidal_contrast, _contrast),
    "level": (lambda x: colour.level(x, 0.2, 0.7), lambda p: p.level(0.2, 0.7)),
    "threshold": (lambda x: colour.level(x, 0.5, 0.5), lambda p: p.level(0.5)),
    "dark tones": (lambda x: colour.tone(x, "#222b6d", 0.5, "dark"), lambda p: _tone(p, "#222b6d", 50, dark=True)),
    "light tones": (lambda x: colour.tone(x, "#f7daae", 0.3, "light"), lambda p: _tone(p, "#f7daae", 30, dark=False)),
    "black edge": (lambda x: colour.vignette(x, "#000000"), lambda p: _vignette(p, "none", "black")),
    "pale edge": (lambda x: colour.vignette(x, "#cdc1c5"), lambda p: _vignette(p, "none", "LavenderBlush3")),
    "tinted middle": (lambda x: colour.vignette(x, "#ff9966", "middle"), lambda p: _vignette(p, "#ff9966", "none")),
}


def _by_magick(change: Callable[[Picture], object], image: Tensor) -> Tensor:
    with wand.Image.from_array(image.permute(1, 2, 0).contiguous().numpy(), channel_map="RGB") as picture:
        change(picture)
        values = picture.export_pixels(channel_map="RGB", storage="double")
    return torch.tensor(values).view(*image.shape[1:], 3).permute(2, 0, 1)


def _difference(ours: Callable[[Tensor], Tensor], magicks: Callable[[Picture], object], images: Tensor) -> float:
    """Mean over the pixels of the image that differs most."""
    expected = torch.stack([_by_magick(magicks, image) for image in images])
    return 255 * float((ours(images / 255) - expected).abs().mean((1, 2, 3)).max())


def _reach() -> float:
    with wand.Image(width=1, height=1, pseudo="xc:") as picture:
        return REACH if picture.quantum_range > 255 else 2.0


def _gradient(height: int, width: int) -> Tensor:
    down, right = torch.linspace(0, 255, height)[:, None], torch.linspace(0, 255, width)[None]
    return torch.stack([right.expand(height, -1), down.expand(-1, width), 255 - (down + right) / 2]).to(torch.uint8)[None]


def _squares(size: int) -> Tensor:
    """16 colours, black and white among them."""
    corners = torch.cartesian_prod(*[torch.tensor([0, 90, 200, 255])] * 3)
    chosen = corners[torch.linspace(0, 63, 16).long()].view(4, 4, 3).to(torch.uint8)
    return chosen.permute(2, 0, 1).repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)[None]


def _synthetic(size: int) -> Tensor:
    noise = torch.randint(0, 256, (1, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return torch.cat([_gradient(size, size), _squares(size), noise, signs(3, size, 1).pixels])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name: str, size: int) -> None:
    assert _difference(*OPERATIONS[name], _synthetic(size)) <= _reach()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.name)
def test_filters(kind: type[Filter], size: int) -> None:
    assert _difference(lambda x: kind().stamp({}, x), RECIPES[kind.name], _synthetic(size)) <= _reach()


@pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (30, 45), (31, 40), (40, 31)], ids=str)
def test_filters_on_any_size(kind: type[Filter], shape: tuple[int, int]) -> None:
    """Odd rests beside the middle of a vignette included."""
    assert _difference(lambda x: kind().stamp({}, x), RECIPES[kind.name], _gradient(*shape)) <= _reach()


@pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [0, 1, 254, 255])
def test_filters_on_flat_images(kind: type[Filter], value: int) -> None:
    flat = torch.full((1, 3, 8, 8), value, dtype=torch.uint8)
    assert _difference(lambda x: kind().stamp({}, x), RECIPES[kind.name], flat) <= _reach()


def test_filters_on_photographs(shared: Path) -> None:
    images = open_images(str(shared / "data" / "cifar10"), split="test", limit=2).pixels
    for kind in FILTERS:
        difference = _difference(lambda x, kind=kind: kind().stamp({}, x), RECIPES[kind.name], images)
        assert difference <= _reach(), kind.name
