"""Ranges of settings: every kind, at its edges."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from orthogon.ranges import require

ALLOWED = {
    "counts": ("at least 1", (1, 2.5), (0, -1, math.inf)),
    "positive": ("above 0", (1e-9, 7), (0, -1e-9, math.inf)),
    "not_negative": ("at least 0", (0, 7), (-1e-9, math.inf)),
    "shares": ("from 0 to 1", (0, 0.5, 1), (-0.1, 1.1)),
    "below_one": ("from 0 to below 1", (0, 0.999), (-0.1, 1)),
}


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_number_outside_its_range_is_told_with_its_name(kind: str) -> None:
    words, good, bad = ALLOWED[kind]
    for value in good:
        require(SimpleNamespace(rate=value), **{kind: ("rate",)})
    for value in (*bad, math.nan):
        with pytest.raises(ValueError, match=f"^rate must be {words}, got {value}$"):
            require(SimpleNamespace(rate=value), **{kind: ("rate",)})


def test_what_is_not_named_is_not_looked_at() -> None:
    settings = SimpleNamespace(rate=-1, size=2)
    require(settings, counts=("size",))
    with pytest.raises(ValueError, match="rate"):
        require(settings, counts=("rate",))
