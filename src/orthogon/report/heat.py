"""Heat maps as plain data: the template turns them into a table."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from orthogon.matrix import DistanceMatrix
from orthogon.printing import printable
from orthogon.report import colours
from orthogon.report.reading import PairRow, failures, found_values, pair_name, pair_rows
from orthogon.report.words import MARKS, decimals, number, percent

NUMBERED = 20
"""Up to so many classes a heat map's cells hold their numbers."""
TABLED = 128
"""Up to so many classes a heat map is a table; beyond, a picture of one pixel per pair with some of the names beside it."""
MOST_TICKS = 50
"""Names beside a picture at most."""
_ROOM = 1000  # CSS pixels that the page's text column leaves for a heat map


@dataclass(frozen=True)
class Cell:
    """One pair in a heat map: its CSS class, what stands in it, and what pointing at it tells."""

    kind: str
    text: str
    title: str


@dataclass(frozen=True)
class HeatMap:
    """A heat map with its legend; `cells` is empty and `picture` a data: URI where there are too many classes."""

    victims: tuple[str, ...]
    targets: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    picture: str | None
    low: str
    middle: str
    high: str
    ramp: str
    failed: dict[str, int]
    left_out: int

    @property
    def numbered(self) -> bool:
        """Whether the cells show their numbers."""
        return len(self.targets) <= NUMBERED

    @property
    def victim_ticks(self) -> list[tuple[float, str]]:
        """The names beside a picture's rows: where each row's middle is, in per cent from the top, and its name."""
        return _ticks(self.victims)

    @property
    def target_ticks(self) -> list[tuple[float, str]]:
        """The same above its columns, from the left."""
        return _ticks(self.targets)

    @property
    def pitch(self) -> int:
        """Side of an unnumbered cell, in CSS pixels."""
        longest = min(max((len(name) for name in self.victims), default=0), 24)
        fits = [side for side in range(22, 6, -1) if len(self.targets) * (side + 1) + longest * 0.55 * min(side, 12) <= _ROOM]
        return fits[0] if fits else 6


def distance_map(matrix: DistanceMatrix, span: tuple[float, float] | None = None) -> HeatMap:
    """The distances, the nearest pair in the strongest colour; span sets the ends of the scale (default: its own)."""
    values = found_values(matrix)
    low, high = span or value_span(values)
    places = decimals([low, high])

    def cell(row: PairRow) -> Cell:
        words = f"{pair_name(matrix.classes, row)}: {number(row.value, places)} (ASR {percent(row.asr)})"
        return Cell(f"q{colours.level_of(row.value, low, high)}", number(row.value, places), words)

    ends = [number(v, places) for v in (low, (low + high) / 2, high)]
    return _heat_map(matrix.classes, pair_rows(matrix), cell, ends, "--near-far")


def distance_maps(matrices: Mapping[str, DistanceMatrix]) -> list[tuple[str, HeatMap]]:
    """Several models' distances on one colour scale, as (name, heat map); their units should be the same."""
    span = value_span(*(found_values(matrix) for matrix in matrices.values()))
    return [(name, distance_map(matrix, span)) for name, matrix in matrices.items()]


def ratio_map(before: DistanceMatrix, after: DistanceMatrix, ratio: Float[Tensor, "victims targets"]) -> HeatMap:
    """After divided by before, on a scale around 1 that is even in both directions; NaN where either is missing."""
    logs = ratio[ratio.isfinite() & (ratio > 0)].log2().abs()
    reach = max(float(logs.max()) if logs.numel() else 0.0, 0.25)
    measured = sorted({(row.victim, row.target) for row in (*pair_rows(before), *pair_rows(after))})
    both = (found_values(before), found_values(after))
    places = decimals(value_span(*both))

    def cell(row: PairRow) -> Cell:
        old, new = (number(float(values[row.victim, row.target]), places) for values in both)
        words = f"{pair_name(after.classes, row)}: {old} before, {new} after, × {row.value:.2f}"
        return Cell(f"r{colours.ratio_level(row.value, reach)}", f"{row.value:.2f}", words)

    rows = [
        PairRow(v, t, float(ratio[v, t]), math.nan, math.nan, "found" if ratio[v, t].isfinite() else "not in both")
        for v, t in measured
    ]
    ends = [f"× {2**end:.2f}" for end in (-reach, 0.0, reach)]
    return _heat_map(after.classes, rows, cell, ends, "--ratio")


def count_map(classes: Sequence[str], counts: Mapping[tuple[int, int], int], titles: Mapping[tuple[int, int], str]) -> HeatMap:
    """How often something happened to each pair (victim, target), its title added to the cell's; other pairs are empty."""
    most = max(counts.values(), default=0)

    def cell(row: PairRow) -> Cell:
        count, words = int(row.value), titles[row.victim, row.target]
        return Cell(f"r{colours.count_level(count, most)}", f"{count:,}", f"{pair_name(classes, row)}: {words}")

    rows = [PairRow(v, t, float(count), math.nan, math.nan, "found") for (v, t), count in counts.items()]
    return _heat_map(classes, rows, cell, ["0", f"{most / 2:,.0f}", f"{most:,}"], "--count")


def value_span(*values: Float[Tensor, "victims targets"]) -> tuple[float, float]:
    """Smallest and largest finite value of all the matrices together; (0, 0) where there is none."""
    finite = torch.cat([torch.empty(0), *(v[v.isfinite()] for v in values)])
    return (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)


def _heat_map(
    classes: Sequence[str], rows: Sequence[PairRow], cell: Callable[[PairRow], Cell], ends: list[str], ramp: str
) -> HeatMap:
    measured = torch.zeros(len(classes), len(classes), dtype=torch.bool)
    for row in rows:
        measured[row.victim, row.target] = True
    victims, targets = _shown(measured)
    known = {(row.victim, row.target): cell(row) if row.found else _failed(classes, row) for row in rows}
    cells = tuple(tuple(known.get((v, t), _empty(v == t)) for t in targets) for v in victims)
    drawn = max(len(victims), len(targets)) > TABLED
    names = [printable(name) for name in classes]
    return HeatMap(
        tuple(names[v] for v in victims),
        tuple(names[t] for t in targets),
        () if drawn else cells,
        _cells_picture(cells) if drawn else None,
        *ends,
        ramp=ramp,
        failed=failures(rows),
        left_out=len(classes) - len(set(victims) | set(targets)),
    )


def _shown(measured: Bool[Tensor, "classes classes"]) -> tuple[list[int], list[int]]:
    """All classes while their numbers fit; of more, only those with a measured pair."""
    if len(measured) <= NUMBERED or not bool(measured.any()):
        return list(range(len(measured))), list(range(len(measured)))
    return measured.any(1).nonzero().flatten().tolist(), measured.any(0).nonzero().flatten().tolist()


def _failed(classes: Sequence[str], row: PairRow) -> Cell:
    outcome = "not finite" if row.outcome == "found" else row.outcome
    return Cell("fail", MARKS.get(outcome, "none"), f"{pair_name(classes, row)}: no distance, {printable(outcome)}")


def _empty(diagonal: bool) -> Cell:
    return Cell("same", "", "") if diagonal else Cell("skip", "", "not measured")


def _ticks(names: Sequence[str]) -> list[tuple[float, str]]:
    """Every tenth name, of more than 500 every 20th, and so on."""
    step = next(step for step in (*(10, 20, 50), *range(100, len(names) + 101, 100)) if len(names) <= step * MOST_TICKS)
    return [(round(100 * (place + 0.5) / len(names), 2), names[place]) for place in range(0, len(names), step)]


def _cells_picture(cells: Sequence[Sequence[Cell]]) -> str:
    """One pixel per pair, in the light theme's colours; grey without a distance, white where nothing was measured."""
    fixed = {"fail": (150, 150, 155), "same": (225, 225, 228), "skip": (255, 255, 255)}
    flat = [fixed.get(c.kind) or colours.of_class(c.kind) for line in cells for c in line]
    image = Image.new("RGB", (len(cells[0]), len(cells)))
    image.putdata(flat)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
