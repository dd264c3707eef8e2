"""A folder with one subfolder of images per class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from orthogon.data.classes import few, natural
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing
from orthogon.data.splits import HELD_OUT_FIRST, choose_split

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"},
)
"""File names that count as images; others in a class folder are left alone."""
_SPLITS = frozenset({*HELD_OUT_FIRST, "training", "testing"})
_NO_CLASSES = frozenset({"__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
"""Folders that archives, disks and network drives add on their own."""


def list_folder(folder: Path, split: str | None) -> Listing:
    """The classes and files of `folder`, or of its subfolder `split`; a class folder may have folders inside.

    Classes and files are in natural order ("2" before "10"). A class folder without images stays a class.

    Raises:
        DataError: no such split, or no class folders.
    """
    names = _subfolders(folder)
    if split is not None or (names and set(names) <= _SPLITS):
        where = str(folder)
        if names and split not in names and not _SPLITS & set(names):
            where, names = f"{folder}, whose folders are its classes ({few(names)}),", []
        folder = folder / choose_split(split, names, where)
        names = _subfolders(folder)
    if not names:
        raise DataError(f"{folder} has no class folders: put the images of each class into a subfolder of its name")
    files = [_images(folder / name) for name in names]
    paths = [path for members in files for path in members]
    labels = torch.tensor([c for c, members in enumerate(files) for _ in members], dtype=torch.int64)

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return ((str(paths[i]), paths[i]) for i in indices)

    return Listing(labels, tuple(names), f"folder {folder}", fetch)


def _subfolders(folder: Path) -> list[str]:
    found = (p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name not in _NO_CLASSES)
    return sorted(found, key=natural)


def _images(folder: Path) -> list[Path]:
    found = [Path(top, name) for top, _, names in os.walk(folder) for name in names]
    return sorted(
        (p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")), key=lambda p: natural(str(p))
    )
