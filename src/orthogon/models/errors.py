"""The error of everything that can be wrong with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

_LISTED = 10


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded; the message says which file, why, and what to do."""


def listed(names: Sequence[str]) -> str:
    """The first ten names and how many more there are."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
