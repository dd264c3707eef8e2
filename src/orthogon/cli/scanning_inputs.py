"""What a verdict depends on beside the words of the command: the files that these name, and those beside a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from orthogon import runs
from orthogon.cli.scan import Scan
from orthogon.data.trojai import CONFIG_FILE, examples_beside
from orthogon.naming import settings_of
from orthogon.scanning import Scanner, shipped

_LARGEST_GIB = 16
"""Of a file. All are hashed by the command itself, one after the other, and nothing ends that."""


class Inputs:
    """Digests of the inputs of one command's scans: what all models share is looked at once.

    What a library fetches by name (hf:NAME, torchvision:NAME, timm:NAME) is known by its name alone.
    """

    def __init__(self, words: Scan, scanner: Scanner) -> None:
        self._of_folder: Callable[[Path], str] = lru_cache(16)(folder_digest)
        self._own_images = not words.images.data
        data = Path(words.images.data.removeprefix("hf:")).expanduser()
        self._common = {
            "data": self._of_folder(data) if words.images.data and data.is_dir() else _of_file(data),
            "code": _of_file(Path((words.arch or "").rpartition(":")[0])),
            "normalization": _of_file(Path(words.normalization or "")),
            "calibrations": calibration_facts(scanner),
        }

    def of(self, model: str) -> dict[str, Any]:
        """JSON-like; for a model's file, its card, the example images beside it and the inputs of all.

        Raises:
            ValueError, OSError: it is no name of a file, a file cannot be read, or it is larger than any that is looked at.
        """
        path = Path(model)
        images = examples_beside(path) if self._own_images else None
        own = {"sha256": _of_file(path), "card": _of_file(path.with_suffix(".json"))}
        if images is not None:
            own |= {"examples": self._of_folder(images), "config": _of_file(images.parent / CONFIG_FILE)}
        return {**self._common, **own}


def calibration_facts(scanner: Scanner) -> dict[str, Any]:
    """The calibrations that come with the package, by name, of a scanner and of those that it is made of; JSON-like."""
    found = {one.name: shipped(one.name, settings_of(one)) for one in (scanner, *scanner.members())}
    return {name: curve.to_json() for name, curve in found.items() if curve is not None}


def folder_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the names, sizes and times of the last change of all files in a folder and those within it."""
    told = hashlib.sha256()
    seen = set[str]()
    for top, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (place := os.path.realpath(top)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(place)
        links = [name for name in folders if (Path(top) / name).is_symlink()]
        for path in (Path(top, name) for name in sorted([*names, *links])):
            facts = path.stat() if path.exists() else path.lstat()
            lead = str(path.readlink()) if path.is_symlink() else ""
            line = ascii((path.relative_to(folder).as_posix(), lead, facts.st_size, facts.st_mtime_ns))  # a name may be no UTF-8
            told.update(line.encode())
    return told.hexdigest()


def _of_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    if (gib := path.stat().st_size / 2**30) > _LARGEST_GIB:
        raise ValueError(f"{path.name} has {gib:,.0f} GiB, and no file of more than {_LARGEST_GIB} is looked at")
    return runs.digest(path)
