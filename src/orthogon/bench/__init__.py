"""Papers' tables as declared grids, with their published figures: data and small functions, no models."""

from __future__ import annotations

from orthogon.bench import deck, deck_appendix, moth, removal_deck, removal_moth
from orthogon.bench.grid import MAKING, Grid, Row, Subject, numbers_of
from orthogon.bench.published import Published
from orthogon.bench.removal import REMOVAL, RemovalGrid

_HARDENING = (
    *(moth.TABLE_1, moth.TABLE_2, moth.TABLE_3, deck.TABLE_1, deck.TABLE_2, deck.TABLE_3),
    *(deck_appendix.TABLE_8, deck.TABLE_10, deck_appendix.CROSS_PATCH, deck_appendix.CROSS_PERVASIVE),
)
GRIDS: dict[str, Grid] = {grid.name: grid for grid in _HARDENING}
"""Every grid of hardening methods by the name that the command line gives it."""
REMOVAL_GRIDS: dict[str, RemovalGrid] = {
    grid.name: grid
    for grid in (REMOVAL, removal_moth.FIGURE_12, removal_deck.TABLE_4, removal_deck.TABLE_5, removal_deck.TABLE_9)
}
"""Every grid of removers."""

__all__ = ["GRIDS", "MAKING", "REMOVAL_GRIDS", "Grid", "Published", "RemovalGrid", "Row", "Subject", "numbers_of"]
