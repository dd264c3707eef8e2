"""Class names: their order, and how a data set's labels meet a classifier's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from orthogon.data.errors import DataError

MOST_CLASSES = 10**5
"""More are a mistake or an attack in a file of a stranger: every class costs memory, with pictures or without."""


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that counts: "2" before "10", "a2" before "a10", numbers before letters, case only as a tie-break."""
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts] + [(-1, 0, name)]


def numbered(values: Sequence[int | str]) -> tuple[Int64[Tensor, " n"], tuple[str, ...]]:
    """Labels and class names of raw label values that come without names.

    Whole numbers that start at 0 are label indices already, so a class without images keeps its place. Other
    numbers and strings are sorted and numbered.

    Raises:
        DataError: a missing or negative label, or labels that make more than `MOST_CLASSES` classes.
    """
    found = sorted(set(values), key=lambda value: natural(str(value)))
    unlabelled = [value for value in found if isinstance(value, int) and value < 0]
    if unlabelled:
        raise DataError(f"label {unlabelled[0]}: these images are not labelled; choose another split")
    indices = bool(found) and found[0] == 0 and all(isinstance(value, int) for value in found)
    count = int(found[-1]) + 1 if indices else len(found)
    if count > MOST_CLASSES:
        raise DataError(f"the labels up to {str(found[-1])[:40]} make {count} classes, at most {MOST_CLASSES} can be")
    if indices:
        found = list(range(count))
    position = {value: i for i, value in enumerate(found)}
    return torch.tensor([position[v] for v in values], dtype=torch.int64), tuple(str(value) for value in found)


def align(
    labels: Int64[Tensor, " n"], names: tuple[str, ...], classes: Sequence[str] | None
) -> tuple[Int64[Tensor, " n"], tuple[str, ...], str]:
    """The labels in the order of a classifier's `classes`, those classes, and a note on what was assumed.

    In this order: every name is one of `classes` (by name, so a folder may hold only some of them); every name is a
    number below their count (a label index); as many names as classes, shared names in the same places (by position).

    Raises:
        DataError: none of these, with the names that do not fit.
    """
    if classes is None or tuple(classes) == names:
        return labels, names, ""
    wanted = tuple(classes)
    if repeated := [name for name, count in Counter(wanted).items() if count > 1]:
        raise DataError(f"the model's class names must differ, {few(repeated)} stands there more than once; mend its card")
    position = {name: i for i, name in enumerate(wanted)}
    strangers = [name for name in names if name not in position]
    if not strangers:
        return _mapped(labels, [position[name] for name in names]), wanted, ""
    if all(name.isdecimal() and int(name) < len(wanted) for name in names):
        return _mapped(labels, [int(name) for name in names]), wanted, ""
    moved = [name for i, name in enumerate(names) if position.get(name, i) != i]
    if len(names) == len(wanted) and not moved:
        return labels, wanted, "classes taken by position, since the data name them otherwise"
    nor = f", nor by position, since {few(moved)} of the data stand elsewhere there" if len(names) == len(wanted) else ""
    raise DataError(
        f"the data have {len(names)} classes, the model {len(wanted)}, and they do not match by name: {few(strangers)} of the "
        f"data are none of the model's ({few(wanted)}){nor}; rename what is meant by another name, and leave out the rest"
    )


def _mapped(labels: Int64[Tensor, " n"], table: list[int]) -> Int64[Tensor, " n"]:
    return torch.tensor(table, dtype=torch.int64)[labels]


def few(names: Sequence[str], most: int = 8) -> str:
    """The names in one line, the first ones of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
