"""The one error of this package."""

from __future__ import annotations


class DataError(ValueError):
    """Images that cannot be had as asked for, with what the user can change."""
