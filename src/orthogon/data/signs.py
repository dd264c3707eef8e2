"""Synthetic traffic signs: the offline default, drawn from signed distances, many images at once.

A sign's outline is an intersection of half planes and its symbol a set of round-ended strokes, so every edge is
antialiased from its distance in pixels, at any size and under any tilt.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.data.classes import align
from orthogon.data.errors import DataError
from orthogon.data.listing import Wanted, missing, per_class_cap
from orthogon.data.sign_kinds import NAMES, Kinds, kinds
from orthogon.data.sign_scenes import Draws, background, expose, plane
from orthogon.images import LabelledImages

_CHUNK = 64  # images that share a random stream, always drawn whole: more images never change the earlier ones
_SPLITS = ("train", "test")


def signs(classes: int = 10, size: int = 32, per_class: int = 100, seed: int = 0, split: str = "test") -> LabelledImages:
    """`classes`·`per_class` pictures of signs, class by class in turn (image i shows class i mod `classes`).

    The same arguments give the same pixels (on one kind of machine and PyTorch), and image i stays the same when
    `per_class` grows. The splits `train` and `test` share no image.

    Args:
        classes: from 2 to 45.
        size: height and width, 16 or more.
        per_class: images of each class, 1 or more.
        seed: 0 or more.
        split: `train` or `test`.

    Raises:
        DataError: an argument outside its range.
    """
    _check(classes, size, per_class, seed, split)
    count = classes * per_class
    labels = torch.arange(count) % classes
    table = kinds(classes)
    pixels = torch.empty(count, 3, size, size, dtype=torch.uint8)

    def fill(start: int) -> None:
        stream = np.random.SeedSequence([seed, _SPLITS.index(split), start // _CHUNK])
        generator = torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        shown = torch.arange(start, start + _CHUNK) % classes
        part = pixels[start : start + _CHUNK]
        part.copy_(_photographed(table, shown, size, generator)[: len(part)])

    _in_threads(fill, range(0, count, _CHUNK))
    return LabelledImages(pixels, labels, NAMES[:classes], f"synthetic signs {size}×{size}, seed {seed} ({split})")


def _in_threads(work: Callable[[int], None], starts: range) -> None:
    """One chunk per thread: PyTorch's own threads lose more at the barriers of such small steps than they gain."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, starts))
    finally:
        torch.set_num_threads(before)


def open_signs(options: str, split: str | None, wanted: Wanted) -> LabelledImages:
    """The signs of a spec's options, `classes=10,size=32,per_class=200,seed=0`, as the caller wants them.

    Raises:
        DataError: an option that does not exist or is not a whole number; a shape that is not square.
    """
    values = _parsed(options)
    channels, height, width = wanted.image_shape or (3, values.get("size", 32), values.get("size", 32))
    if height != width:
        raise DataError(f"signs are square, the model takes images of {height}×{width}")
    number, per_class = values.get("classes", 10), values.get("per_class", 100)
    _check(number, height, per_class, values.get("seed", wanted.seed), split or "test")
    if wanted.limit is not None and wanted.limit < 1:
        raise DataError(f"the limit of images per class must be at least 1, got {wanted.limit}")
    cap, sampled = per_class_cap([per_class] * number, 3 * height * width, wanted)
    made = signs(number, height, cap, values.get("seed", wanted.seed), split or "test")
    labels, names, note = align(made.labels, made.classes, wanted.classes)
    source = "; ".join(filter(None, (made.source, sampled, note, missing(labels, names))))
    return LabelledImages(_grey(made.pixels) if channels == 1 else made.pixels, labels, names, source)


def _parsed(options: str) -> dict[str, int]:
    known = ("classes", "size", "per_class", "seed")
    values = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        if name not in known or not value.isdecimal():
            raise DataError(f"signs: {option!r} is not one of {', '.join(f'{k}=NUMBER' for k in known)}")
        values[name] = int(value)
    return values


def _check(classes: int, size: int, per_class: int, seed: int, split: str) -> None:
    if not 2 <= classes <= len(NAMES):
        raise DataError(f"signs have 2 to {len(NAMES)} classes, got {classes}")
    if size < 16:
        raise DataError(f"signs need a size of 16 pixels or more, got {size}")
    if per_class < 1 or seed < 0:
        raise DataError(f"signs need at least 1 image per class and a seed from 0, got {per_class} and {seed}")
    if split not in _SPLITS:
        raise DataError(f"signs have the splits {' and '.join(_SPLITS)}, got {split!r}")


def _grey(pixels: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 1 h w"]:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601, as Pillow
    return torch.cat([(part * luma).sum(1, keepdim=True).round().to(torch.uint8) for part in pixels.split(1024)])


def _photographed(
    table: Kinds, shown: Int64[Tensor, " n"], size: int, generator: torch.Generator
) -> UInt8[Tensor, "n 3 size size"]:
    draws = Draws(len(shown), generator)
    scene = background(draws, size)
    x, y, pixels = _camera(draws, size)
    scene = _pole(draws, scene, x, y, pixels)
    scene = _composite(table, shown, draws, scene, x, y, pixels)
    return (expose(draws, scene) * 255).round().to(torch.uint8)


def _camera(draws: Draws, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shift, tilt, scale and perspective: sign coordinates (n, size, size) of pixels, pixels per unit (n, 1, 1)."""
    x, y = plane(size)
    scale = draws.uniform(0.62, 0.95)
    room = 1.1 - scale
    x, y = x - draws.uniform(-0.7, 0.7) * room, y - draws.uniform(-0.7, 0.7) * room
    depth = 1 + draws.uniform(-0.18, 0.18) * x + draws.uniform(-0.18, 0.18) * y
    angle = draws.uniform(-0.24, 0.24)
    narrow = draws.uniform(0.74, 1.0)  # seen from the side
    shear = draws.uniform(-0.12, 0.12)
    across = (x * angle.cos() + y * angle.sin()) / (scale * narrow * depth)
    down = (y * angle.cos() - x * angle.sin()) / (scale * depth)
    return across + shear * down, down, scale * narrow * (size / 2)


def _pole(draws: Draws, scene: Tensor, x: Tensor, y: Tensor, pixels: Tensor) -> Tensor:
    distance = torch.maximum(x.abs() - draws.uniform(0.05, 0.12), -y)
    grey = draws.uniform(0.2, 0.7)[:, None] * (1 - 2 * x.clamp(-0.15, 0.15))[:, None]
    return torch.lerp(scene, grey, (_cover(distance, pixels) * draws.chance(0.7))[:, None])


def _composite(
    table: Kinds, shown: Int64[Tensor, " n"], draws: Draws, scene: Tensor, x: Tensor, y: Tensor, pixels: Tensor
) -> Float[Tensor, "n 3 size size"]:
    """Border, fill and symbol over the scene; the paint fades, gets dirty, and something may hang in front."""
    outline = _outline(table.planes[shown], x, y)
    wear = 1 + 0.18 * draws.grid(1, 5, x.shape[-1]) * draws.uniform(0.0, 1.0)[:, None]
    faded = draws.uniform(0.0, 0.3)
    colours = table.colours[shown] + (torch.rand(draws.n, 3, 3, generator=draws.generator) - 0.5) * 0.14
    colours = torch.lerp(colours, colours.mean(2, keepdim=True) * 0.5 + 0.3, faded)
    border, fill, symbol = (c[:, :, None, None] for c in colours.unbind(1))
    inner = outline + table.border[shown][:, None, None] * draws.uniform(0.85, 1.15)
    sign = torch.lerp(border, fill, _cover(inner, pixels)[:, None])
    sign = torch.lerp(sign, symbol, _cover(_symbol(table.strokes[shown], x, y), pixels)[:, None])
    return torch.lerp(scene, sign * wear, (_cover(outline, pixels) * _unhidden(draws, x, y, pixels))[:, None])


def _cover(distance: Tensor, pixels: Tensor) -> Tensor:
    """How much of a pixel lies inside, from its centre's distance to the edge."""
    return (0.5 - distance * pixels).clamp(0, 1)


def _outline(planes: Float[Tensor, "n 8 3"], x: Tensor, y: Tensor) -> Float[Tensor, "n size size"]:
    circle = torch.hypot(x, y) - 0.95
    nx, ny, reach = (part[..., None, None] for part in planes.unbind(2))
    polygon = nx[:, 0] * x + ny[:, 0] * y - reach[:, 0]
    for k in range(1, planes.shape[1]):
        polygon = torch.maximum(polygon, nx[:, k] * x + ny[:, k] * y - reach[:, k])
    return torch.where((planes[:, 0, 2] == 0)[:, None, None], circle, polygon)


def _symbol(strokes: Float[Tensor, "n strokes 5"], x: Tensor, y: Tensor) -> Float[Tensor, "n size size"]:
    nearest = torch.full_like(x, 9.0)
    for stroke in strokes.unbind(1):
        x1, y1, x2, y2, width = (part[:, None, None] for part in stroke.unbind(1))
        dx, dy = x2 - x1, y2 - y1
        along = (((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy).clamp(min=1e-6)).clamp(0, 1)
        distance = torch.hypot(x - x1 - along * dx, y - y1 - along * dy) - width
        nearest = torch.minimum(nearest, distance)
    return nearest


def _unhidden(draws: Draws, x: Tensor, y: Tensor, pixels: Tensor) -> Tensor:
    """0 behind a branch near the sign's edge (in one of seven images), so that the background shows, else 1."""
    angle = draws.uniform(0.0, 6.28)
    distance = (x * angle.cos() + y * angle.sin() - draws.uniform(0.45, 0.9)).abs() - draws.uniform(0.03, 0.12)
    return 1 - _cover(distance, pixels) * draws.chance(0.15)
