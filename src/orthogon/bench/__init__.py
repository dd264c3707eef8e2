"""Papers' tables as declared grids, with their published figures: data and small functions, no models."""

from __future__ import annotations

from orthogon.bench import moth
from orthogon.bench.grid import MAKING, Grid, Row, Subject, numbers_of
from orthogon.bench.published import Published

GRIDS: dict[str, Grid] = {grid.name: grid for grid in (moth.TABLE_1, moth.TABLE_2, moth.TABLE_3)}
"""Every grid by the name that the command line gives it."""

__all__ = ["GRIDS", "MAKING", "Grid", "Published", "Row", "Subject", "numbers_of"]
