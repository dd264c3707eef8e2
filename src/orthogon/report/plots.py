"""Dot plots as plain data: the template turns them into inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orthogon.report.reading import PairRow
from orthogon.report.words import number

_TITLED_DOTS = 600  # more would make the page heavy, and nobody can point at them


@dataclass(frozen=True)
class Dots:
    """One series of a plot on a field of 1000 by 1000 (y down): titled dots, or one path where they are too many."""

    points: tuple[tuple[float, float, str], ...]
    path: str
    bars: str


@dataclass(frozen=True)
class Plot:
    """A dot plot over pairs sorted by distance, with a histogram along its value axis."""

    series: tuple[Dots, ...]
    ticks: tuple[tuple[float, str], ...]
    bins: tuple[tuple[float, float, float, str], ...]
    width: int
    mean: float


def distance_plot(rows: Sequence[PairRow], name: Callable[[PairRow], str]) -> Plot:
    """Found pairs by distance, a bar of one standard deviation over restarts to each side where it is known."""
    values = [row.value for row in rows]
    spreads = [row.spread if math.isfinite(row.spread) else 0.0 for row in rows]
    top = max((v + s for v, s in zip(values, spreads, strict=True)), default=1.0) * 1.04 or 1.0
    titles = [
        f"{name(row)}: {number(row.value)}" + (f" ± {number(row.spread)}" if s else "")
        for row, s in zip(rows, spreads, strict=True)
    ]
    return _plot([_dots(values, titles, top, spreads)], values, top)


def before_after_plot(before: Sequence[float], after: Sequence[float], titles: Sequence[str]) -> Plot:
    """Two dots per pair at one place, sorted by the first; the histogram is of the second."""
    order = sorted(range(len(before)), key=before.__getitem__)
    titles = [titles[k] for k in order]
    top = max((*before, *after), default=1.0) * 1.04 or 1.0
    series = [_dots([values[k] for k in order], titles, top, []) for values in (before, after)]
    return _plot(series, after, top)


def _plot(series: list[Dots], values: Sequence[float], top: float) -> Plot:
    mean = sum(values) / len(values) if values else 0.0
    count = max(len(values), 1)
    width = 7 if count <= 150 else 5 if count <= _TITLED_DOTS else 3
    return Plot(tuple(series), _ticks(top), _bins(values, top), width, _y(mean, top))


def _dots(values: Sequence[float], titles: Sequence[str], top: float, spreads: Sequence[float]) -> Dots:
    places = [round(1000 * (k + 0.5) / len(values), 2) for k in range(len(values))]
    points = tuple((x, _y(v, top), title) for x, v, title in zip(places, values, titles, strict=True))
    bars = "".join(
        f"M{x:g} {_y(v - s, top):g}V{_y(v + s, top):g}"
        for x, v, s in zip(places, values, spreads or [0.0] * len(values), strict=True)
        if s > 0
    )
    if len(points) <= _TITLED_DOTS:
        return Dots(points, "", bars)
    return Dots((), "".join(f"M{x:g} {y:g}h.01" for x, y, _ in points), bars)


def _bins(values: Sequence[float], top: float, count: int = 24) -> tuple[tuple[float, float, float, str], ...]:
    """(y, height, length, title) of the histogram's bars; the longest is 1000."""
    held = [0] * count
    for value in values:
        held[min(int(value / top * count), count - 1)] += 1
    longest = max(held) or 1
    return tuple(
        (
            _y(top * (k + 1) / count, top),
            1000 / count - 6,
            1000 * n / longest,
            f"{number(top * k / count)} to {number(top * (k + 1) / count)}: {n}",
        )
        for k, n in enumerate(held)
        if n
    )


def _ticks(top: float) -> tuple[tuple[float, str], ...]:
    """Three to seven round values from 0 up, as (share of the height in per cent, label)."""
    step = 10.0 ** math.floor(math.log10(top))
    step *= next(factor for factor in (0.2, 0.5, 1.0, 2.0) if top / (step * factor) <= 6.5)
    return tuple((round(100 * k * step / top, 3), f"{k * step:,.6g}") for k in range(int(top / step) + 1))


def _y(value: float, top: float) -> float:
    return round(1000 * (1 - min(max(value / top, 0.0), 1.0)), 2)
