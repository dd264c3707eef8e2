"""The 45 kinds of synthetic traffic signs: shape, colours and symbol, as tables for the renderer.

Coordinates: a sign fills [-1, 1]², x to the right, y down. No kind is another's mirror image, so that flipping images
while training keeps the labels true.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin
from typing import TypeAlias

import torch
from torch import Tensor

Stroke: TypeAlias = tuple[float, float, float, float, float]
"""A line with round ends: x1, y1, x2, y2, half its width. A dot has no length."""

COLOURS = {
    "white": (0.92, 0.92, 0.90),
    "black": (0.07, 0.07, 0.08),
    "red": (0.76, 0.09, 0.12),
    "blue": (0.08, 0.27, 0.66),
    "yellow": (0.96, 0.78, 0.10),
    "green": (0.05, 0.45, 0.25),
    "orange": (0.95, 0.47, 0.08),
    "brown": (0.42, 0.24, 0.12),
}

STYLES = {  # fill: (border, width of the border, symbol)
    "white": ("red", 0.20, "black"),
    "red": ("white", 0.07, "white"),
    "blue": ("white", 0.06, "white"),
    "green": ("white", 0.07, "white"),
    "brown": ("white", 0.07, "white"),
    "yellow": ("black", 0.09, "black"),
    "orange": ("black", 0.09, "black"),
}


def _sides(count: int, turn: float, inner: float) -> list[tuple[float, float, float]]:
    """Half planes (nx, ny, distance from the centre) of a regular polygon, the first normal at `turn` degrees."""
    angles = [pi * turn / 180 + 2 * pi * k / count for k in range(count)]
    return [(cos(a), sin(a), inner) for a in angles]


SHAPES: dict[str, tuple[list[tuple[float, float, float]], float, float]] = {
    # half planes (none: a circle of radius 0.95), scale and vertical centre of the symbol
    "circle": ([], 0.66, 0.0),
    "triangle": (
        [(0.0, 1.0, 0.72), (cos(-pi / 6), sin(-pi / 6), 0.52), (-cos(pi / 6), sin(-pi / 6), 0.52)],
        0.50,
        0.22,
    ),
    "wedge": ([(0.0, -1.0, 0.72), (cos(pi / 6), sin(pi / 6), 0.52), (-cos(pi / 6), sin(pi / 6), 0.52)], 0.50, -0.22),
    "octagon": (_sides(8, 0.0, 0.92), 0.74, 0.0),
    "hexagon": (_sides(6, 30.0, 0.86), 0.62, 0.0),
    "diamond": (_sides(4, 45.0, 0.70), 0.58, 0.0),
    "square": (_sides(4, 0.0, 0.85), 0.76, 0.0),
    "pentagon": (
        [(0.0, 1.0, 0.85), (1.0, 0.0, 0.8), (-1.0, 0.0, 0.8), (0.6, -0.8, 0.62), (-0.6, -0.8, 0.62)],
        0.62,
        0.14,
    ),
    "panel": ([(0.0, 1.0, 0.62), (0.0, -1.0, 0.62), (1.0, 0.0, 0.95), (-1.0, 0.0, 0.95)], 0.58, 0.0),
}


def _path(*points: tuple[float, float], width: float = 0.12) -> list[Stroke]:
    return [(*a, *b, width) for a, b in pairwise(points)]


_HEXAGON = [(0.5 * cos(pi * k / 3), 0.5 * sin(pi * k / 3)) for k in range(7)]

SYMBOLS: dict[str, list[Stroke]] = {
    "plain": [],
    "bar": _path((-0.6, 0.0), (0.6, 0.0), width=0.19),
    "cross": [*_path((-0.5, -0.5), (0.5, 0.5), width=0.14), *_path((-0.5, 0.5), (0.5, -0.5), width=0.14)],
    "plus": [*_path((-0.6, 0.0), (0.6, 0.0), width=0.15), *_path((0.0, -0.6), (0.0, 0.6), width=0.15)],
    "slash": _path((-0.5, 0.55), (0.5, -0.55), width=0.15),
    "pipe": _path((0.0, -0.6), (0.0, 0.6), width=0.18),
    "equals": [*_path((-0.55, -0.3), (0.55, -0.3), width=0.15), *_path((-0.55, 0.3), (0.55, 0.3), width=0.15)],
    "arrow": [
        *_path((0.0, 0.65), (0.0, -0.6), width=0.14),
        *_path((-0.5, -0.08), (0.0, -0.62), (0.5, -0.08), width=0.14),
    ],
    "turn": [
        *_path((-0.35, 0.65), (-0.35, -0.2), (0.55, -0.2), width=0.14),
        *_path((0.2, -0.6), (0.58, -0.2), (0.2, 0.2), width=0.13),
    ],
    "chevron": [
        *_path((-0.6, 0.0), (0.0, -0.5), (0.6, 0.0), width=0.14),
        *_path((-0.6, 0.55), (0.0, 0.05), (0.6, 0.55), width=0.14),
    ],
    "exclamation": [*_path((0.0, -0.68), (0.0, 0.15), width=0.17), (0.0, 0.6, 0.0, 0.6, 0.19)],
    "dots": [(0.0, y, 0.0, y, 0.22) for y in (-0.58, 0.0, 0.58)],
    "pair": [(x, 0.0, x, 0.0, 0.28) for x in (-0.42, 0.42)],
    "disc": [(0.0, 0.0, 0.0, 0.0, 0.45)],
    "ring": _path(*_HEXAGON, width=0.13),
    "tee": [*_path((-0.6, -0.4), (0.6, -0.4), width=0.17), *_path((0.0, -0.4), (0.0, 0.65), width=0.17)],
    "fork": [*_path((-0.5, -0.6), (0.0, 0.0), (0.5, -0.6), width=0.14), *_path((0.0, 0.0), (0.0, 0.65), width=0.14)],
    "zigzag": _path((-0.65, 0.3), (-0.3, -0.35), (0.1, 0.35), (0.6, -0.3), width=0.13),
    "person": [
        (0.0, -0.62, 0.0, -0.62, 0.19),
        *_path((0.0, -0.3), (0.0, 0.1), width=0.16),
        *_path((-0.45, 0.1), (0.0, -0.25), (0.45, 0.1), width=0.09),
        *_path((-0.35, 0.75), (0.0, 0.1), (0.35, 0.75), width=0.12),
    ],
    "car": [
        *_path((-0.6, 0.12), (0.6, 0.12), width=0.22),
        *_path((-0.25, -0.25), (0.25, -0.25), width=0.2),
        *[(x, 0.42, x, 0.42, 0.18) for x in (-0.4, 0.4)],
    ],
    "h": [
        *_path((-0.4, -0.65), (-0.4, 0.65), width=0.14),
        *_path((0.4, -0.65), (0.4, 0.65), width=0.14),
        *_path((-0.4, 0.0), (0.4, 0.0)),
    ],
    "p": [
        *_path((-0.35, 0.7), (-0.35, -0.6), width=0.14),
        *_path((-0.35, -0.6), (0.3, -0.5), (0.3, -0.05), (-0.35, 0.05)),
    ],
    "1": _path((-0.3, -0.35), (0.05, -0.65), (0.05, 0.7), width=0.15),
    "3": _path((-0.35, -0.65), (0.35, -0.65), (-0.05, -0.1), (0.38, 0.3), (0.05, 0.65), (-0.38, 0.6)),
    "5": _path((0.38, -0.65), (-0.32, -0.65), (-0.35, -0.08), (0.25, -0.05), (0.35, 0.4), (-0.38, 0.65)),
    "7": _path((-0.42, -0.65), (0.42, -0.65), (-0.1, 0.7), width=0.14),
    "8": [
        *_path((0.0, 0.0), (-0.34, -0.35), (0.0, -0.68), (0.34, -0.35), (0.0, 0.0), width=0.11),
        *_path((0.0, 0.0), (0.38, 0.36), (0.0, 0.7), (-0.38, 0.36), (0.0, 0.0), width=0.11),
    ],
}

NAMES = (
    *("red-octagon-bar", "white-circle-3", "blue-circle-arrow", "yellow-diamond-exclamation", "white-triangle-dots"),
    *("white-wedge-plain", "blue-square-person", "green-panel-arrow", "orange-diamond-chevron", "red-circle-bar"),
    *("white-circle-8", "white-triangle-car", "blue-circle-turn", "yellow-diamond-plain", "brown-square-tee"),
    *("blue-square-p", "white-circle-slash", "red-octagon-cross", "green-square-plus", "yellow-pentagon-person"),
    *("white-triangle-zigzag", "white-circle-7", "orange-diamond-turn", "blue-square-h", "white-triangle-exclamation"),
    *("red-circle-cross", "blue-circle-pair", "yellow-panel-chevron", "white-circle-plain", "green-hexagon-disc"),
    *("white-triangle-person", "blue-pentagon-person", "orange-panel-equals", "white-circle-5", "brown-panel-fork"),
    *("yellow-diamond-plus", "white-triangle-fork", "blue-hexagon-ring", "white-circle-car", "green-panel-ring"),
    *("orange-diamond-person", "red-hexagon-pipe", "blue-square-tee", "white-circle-1", "yellow-square-zigzag"),
)
"""Fill colour, shape, symbol; the first are the most unlike each other, look-alikes come later."""


@dataclass(frozen=True)
class Kinds:
    """Float tensors with one row per kind."""

    colours: Tensor
    """(kinds, 3, 3): border, fill, symbol; RGB in [0, 1]."""
    border: Tensor
    """(kinds,): width of the border."""
    planes: Tensor
    """(kinds, 8, 3): the outline's half planes, repeated to 8; all zero for a circle."""
    strokes: Tensor
    """(kinds, most strokes, 5): the symbol's strokes on the sign; unused ones have a width far below 0."""


def kinds(count: int) -> Kinds:
    """The tables of the first `count` names."""
    parts = [name.split("-") for name in NAMES[:count]]
    most = max(1, *(len(SYMBOLS[symbol]) for _, _, symbol in parts))
    styles = [(STYLES[fill][0], fill, STYLES[fill][2]) for fill, _, _ in parts]
    return Kinds(
        colours=torch.tensor([[COLOURS[colour] for colour in style] for style in styles]),
        border=torch.tensor([STYLES[fill][1] for fill, _, _ in parts]),
        planes=torch.tensor([_outline(shape) for _, shape, _ in parts]),
        strokes=torch.tensor([_placed(symbol, shape, most) for _, shape, symbol in parts]),
    )


def _outline(shape: str) -> list[tuple[float, float, float]]:
    sides = SHAPES[shape][0] or [(0.0, 0.0, 0.0)]
    return (sides * 8)[:8]


def _placed(symbol: str, shape: str, most: int) -> list[Stroke]:
    _, scale, y = SHAPES[shape]
    moved = [(x1, y1 + y / scale, x2, y2 + y / scale, r) for x1, y1, x2, y2, r in SYMBOLS[symbol]]
    strokes: list[Stroke] = [(scale * x1, scale * y1, scale * x2, scale * y2, scale * r) for x1, y1, x2, y2, r in moved]
    return strokes + [(0.0, 0.0, 0.0, 0.0, -9.0)] * (most - len(strokes))
