"""Which split of a data set is meant."""

from __future__ import annotations

from collections.abc import Collection

from orthogon.data.errors import DataError

HELD_OUT_FIRST = ("test", "validation", "valid", "val", "dev", "eval", "train")
"""Without a choice: held-out images first, since a model is measured on what it has not seen."""


def choose_split(asked: str | None, offered: Collection[str], where: str) -> str:
    """The split asked for; without one the first of `HELD_OUT_FIRST` that is offered, or the only one.

    Raises:
        DataError: it is not offered, or none is asked for and no usual one is there.
    """
    if asked in offered and asked is not None:
        return asked
    usual = [name for name in HELD_OUT_FIRST if name in offered]
    if asked is None and (usual or len(offered) == 1):
        return (usual or list(offered))[0]
    names = sorted(filter(None, offered))
    if not names:
        raise DataError(f"{where} has no splits, got {asked!r}; leave --split out")
    raise DataError(f"{where} has {', '.join(names)}; --split must be one of them, got {asked!r}")
