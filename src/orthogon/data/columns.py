"""Which column of a table holds the images and which the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orthogon.data.errors import DataError

_IMAGE_NAMES = ("image", "img", "images", "picture", "pixel_values")
_LABEL_NAMES = ("label", "labels", "fine_label", "coarse_label", "class", "target")


@dataclass(frozen=True)
class Column:
    """A column's kind (`image`, `class`, `integer`, `string` or `other`) and, for `class`, its names."""

    kind: str
    names: tuple[str, ...] = ()


def pick(columns: Mapping[str, Column], where: str) -> tuple[str, str]:
    """The names of the image column and the label column: of a usual name, else the only one of images or of classes.

    Raises:
        DataError: there is none, or several that the names do not tell apart.
    """
    image = _one(columns, ("image",), _IMAGE_NAMES, "image", where)
    return image, _one(columns, ("class", "integer", "string"), _LABEL_NAMES, "label", where)


def labels_from(name: str) -> str:
    """A note that names the label column where its name is none of the usual ones."""
    return "" if name in _LABEL_NAMES else f", labels of column {name!r}"


def _one(columns: Mapping[str, Column], kinds: Sequence[str], usual: Sequence[str], what: str, where: str) -> str:
    """A column of a usual name and one of `kinds`, else the only one of the first kind: numbers and texts may be anything."""
    named = [name for name in usual if name in columns and columns[name].kind in kinds]
    fitting = [name for name, column in columns.items() if column.kind == kinds[0]]
    if named or len(fitting) == 1:
        return (named or fitting)[0]
    found = ", ".join(f"{name} ({column.kind})" for name, column in columns.items())
    raise DataError(f"{where}: no one {what} column among {found}; name it one of {', '.join(usual)}")
