"""Removers against poisoned models as declared grids: which methods, on which clean images, and what was published of them.

The models are the user's own. The papers' models are its subjects: what was published of each stands beside the measured figures
of whichever model the user names for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

AS_IT_CAME = "as-it-came"
"""The first row of every table: the poisoned model before anything was done to it."""
LABELS = {
    AS_IT_CAME: "as it came",
    "fine-tuning": "Fine-tuning",
    "nc": "NC",
    "nad": "NAD",
    "anp": "ANP",
    "abs": "ABS",
    "fine-pruning": "Fine-pruning",
    "mcr": "MCR",
    "moth": "MOTH",
    "deck": "DECK",
    "ft-sam": "FT-SAM",
    "aug-sam": "orthogon AugSAM",
    "i-bau": "I-BAU",
    "clp": "CLP",
    "sau": "SAU",
    "auto": "orthogon auto",
    "moth-filter": "MOTH, filters",
    "moth-colour": "MOTH, colour maps",
    "moth-additive": "MOTH, additive",
}
"""The papers' names of the methods; one that is not here is shown by its own."""


@dataclass(frozen=True)
class Figures:
    """What was published of one method on one model, or of several in the mean; None where no figure can be read."""

    accuracy: float | None = None
    """On clean test images, 0 to 1."""
    success: float | None = None
    """Attack success rate, 0 to 1."""
    words: str = ""
    """What the text tells where there is no figure."""

    def to_json(self) -> dict[str, float | str | None]:
        """Plain values for a result file."""
        return asdict(self)


Table = Mapping[str, Figures]
"""The rows of one model, by the method's name."""


@dataclass(frozen=True)
class Subject:
    """A model of the paper, or several of them in the mean."""

    key: str
    label: str
    source: str
    """Which table, figure or section."""
    published: Table
    note: str = ""
    """What the text tells of all methods alike."""


@dataclass(frozen=True)
class RemovalGrid:
    """A table of a paper: every method gets the same clean images of the same poisoned models."""

    name: str
    title: str
    paper: str
    rows: tuple[str, ...]
    """Methods by name; none: all that there are."""
    subjects: tuple[Subject, ...]
    mean: str
    """The subject whose figures stand beside the measured mean over all models."""

    def chosen(self, asked: str | None, methods: Collection[str]) -> tuple[str, ...]:
        """The rows that are named, comma between them, in the grid's order; all without names.

        Args:
            asked: the names.
            methods: those that can be run.

        Raises:
            ValueError: a name is none of the grid's rows, or of one that cannot be run.
        """
        rows = self.rows or tuple(methods)
        if asked is None:
            return rows
        names = [name.strip() for name in asked.split(",")]
        for name in names:
            if name not in rows:
                raise ValueError(f"--rows {name!r} is none of {self.name}'s{_hint(name, rows)}; there are {', '.join(rows)}")
            if name not in methods:
                raise ValueError(f"--rows {name!r} cannot be run: it has no implementation here yet")
        return tuple(row for row in rows if row in names)

    def subject(self, key: str) -> Subject:
        """The subject of that name.

        Raises:
            ValueError: the grid has none of that name.
        """
        known = {subject.key: subject for subject in self.subjects}
        if key not in known:
            raise ValueError(f"subject {key!r} is none of {self.name}'s{_hint(key, known)}; there are {', '.join(known)}")
        return known[key]


def label_of(row: str) -> str:
    """A row's name in tables."""
    return LABELS.get(row, row)


def read_figures(text: str, rows: tuple[str, ...]) -> dict[str, Table]:
    """The models of a table as printed: a key, then accuracy and attack success rate of each method, "-" what cannot be read.

    Args:
        text: a line per model, per cent without their sign.
        rows: the methods, in the order of the columns.

    Raises:
        ValueError: a line has another number of figures, or something that is no number.
    """
    lines = [line.split() for line in text.strip().splitlines()]
    return {key: _row(figures, rows) for key, *figures in lines}


def _row(figures: list[str], rows: tuple[str, ...]) -> Table:
    if len(figures) != 2 * len(rows):
        raise ValueError(f"{len(figures)} figures for the accuracy and attack success rate of {', '.join(rows)}")
    shares = [None if figure == "-" else round(float(figure) / 100, 6) for figure in figures]
    pairs = zip(rows, shares[::2], shares[1::2], strict=True)
    return {row: Figures(accuracy, success) for row, accuracy, success in pairs if (accuracy, success) != (None, None)}


def _hint(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


_RECORD_ROWS = (AS_IT_CAME, "fine-tuning", "fine-pruning", "nad", "nc", "anp", "i-bau", "ft-sam")
_RECORD = read_figures(
    "mean 91.24 95.71 91.83 38.81 92.14 21.72 91.49 23.69 87.89 63.38 90.80 30.12 88.19 5.73 92.10 2.47", _RECORD_ROWS
)

REMOVAL = RemovalGrid(
    "removal",
    "Removers against poisoned models",
    "Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023",
    (),
    (Subject("preactresnet18-cifar10", "PreActResNet-18 on CIFAR-10, mean of 10 attacks, 5 % clean", "FT-SAM", _RECORD["mean"]),),
    "preactresnet18-cifar10",
)
