"""What a paper's table says of one method on one model, and how the tables below are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Published:
    """One row of a paper's table; shares are of 1, and what the table has no figure for is None."""

    accuracy: float
    """On the test images."""
    minutes: float
    """Of training, on the paper's machine."""
    distance: float
    """Mean over all class pairs."""
    increase: float | None = None
    """Average of the pairs' relative increases (MOTH, Eq. 8): 1.0 is a doubling."""
    lost: float | None = None
    """Test accuracy lost; the tables write 0 where it rose."""
    robust: float | None = None
    """Accuracy under PGD."""
    robust_lost: float | None = None
    """Accuracy under PGD lost; the tables write 0 where it rose."""

    def to_json(self) -> dict[str, float | None]:
        """Plain values for a result file."""
        return asdict(self)


Table = dict[str, Published]
"""The rows of one model by key; "natural" is the model before any hardening, adversarially trained or not."""

NATURAL = ("accuracy", "minutes", "distance", "increase", "lost")
"""Columns of MOTH's Tables I, III and V."""
ADVERSARIAL = ("accuracy", "robust", "minutes", "distance", "increase", "lost", "robust_lost")
"""Columns of MOTH's Tables II and VI."""
_ABSOLUTE = ("minutes", "distance")  # the other columns are printed in per cent


def read_table(text: str, columns: tuple[str, ...]) -> Table:
    """The rows of a table as printed: a key, then the figures in the order of the columns, per cent without their sign.

    Raises:
        ValueError: a row has more figures than there are columns, or something that is no number.
    """
    lines = [line.split() for line in text.strip().splitlines()]
    return {key: _row(figures, columns) for key, *figures in lines}


def _row(figures: list[str], columns: tuple[str, ...]) -> Published:
    if len(figures) > len(columns):
        raise ValueError(f"{len(figures)} figures for the columns {', '.join(columns)}")
    named = zip(columns, map(float, figures), strict=False)  # the first row of a table has no changes
    return Published(**{name: value if name in _ABSOLUTE else round(value / 100, 6) for name, value in named})
