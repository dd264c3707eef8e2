"""Images that are arrays already: `.npz` files, and what other libraries hold in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from orthogon.data.classes import numbered
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing
from orthogon.data.parquet import labelled
from orthogon.data.splits import HELD_OUT_FIRST, choose_split

_IMAGE_KEYS = ("x", "images", "image", "data", "X")
_LABEL_KEYS = ("y", "labels", "label", "targets", "Y")


def list_npz(path: Path, split: str | None) -> Listing:
    """Arrays of an `.npz`: `x`/`y` or `images`/`labels`, with a split `x_test`/`y_test` or `test_images`/`test_labels`.

    Pixels are uint8 (or whole numbers from 0 to 255), or floats in [0, 1]; layouts as `list_arrays` says. An array
    `classes` of strings names the classes.

    Raises:
        DataError: not such a file; pickled objects inside (never loaded: they could run code); no such split.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is one array, not an archive")
        with archive:
            keys = _splits(list(archive), path)
            chosen = choose_split(split, keys, str(path))
            images, labels = (archive[key] for key in keys[chosen])
            names = tuple(str(name) for name in archive["classes"]) if "classes" in archive else ()
    except DataError:
        raise
    except (OSError, EOFError, zipfile.BadZipFile, ValueError) as error:
        refused = "pickle" in str(error)
        reason = "it holds pickled Python objects, which could run code" if refused else error
        raise DataError(f"{path} cannot be read: {reason}") from error
    return list_arrays(images, labels, names, f"{path} ({chosen})" if chosen else str(path))


def list_arrays(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], source: str) -> Listing:
    """Arrays (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w) with labels (n,) or (n, 1).

    Raises:
        DataError: other shapes, lengths that differ, pixels of unknown range, labels that are not whole numbers.
    """
    pixels = _bytes(_channels_last(images, source), source)
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype.kind == "U"):
        raise DataError(f"{source}: labels must be whole numbers (n,), got {labels.dtype} {labels.shape}")
    if len(labels) != len(pixels):
        raise DataError(f"{source}: {len(pixels)} images but {len(labels)} labels")
    values = labels.tolist()
    numbers, names = labelled(values, classes, source) if labels.dtype.kind != "U" else numbered(values)

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return ((f"{source} image {i}", pixels[i]) for i in indices)

    return Listing(numbers, names, source, fetch)


def _splits(keys: Sequence[str], path: Path) -> dict[str, tuple[str, str]]:
    """Split name ("" for none) -> the keys of its images and labels."""
    found: dict[str, tuple[str, str]] = {}
    for split in ("", *HELD_OUT_FIRST):
        images = next((k for name in _IMAGE_KEYS for k in _spellings(name, split) if k in keys), None)
        labels = next((k for name in _LABEL_KEYS for k in _spellings(name, split) if k in keys), None)
        if images and labels:
            found[split] = images, labels
    if not found:
        raise DataError(f"{path} needs arrays x and y (or x_train and y_train, …), has {', '.join(keys)}")
    return found


def _spellings(name: str, split: str) -> tuple[str, ...]:
    return (f"{name}_{split}", f"{split}_{name}") if split else (name,)


def _channels_last(images: np.ndarray, source: str) -> np.ndarray:
    if images.ndim == 3:
        return images
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images[..., 0] if images.shape[3] == 1 else images
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)
    raise DataError(f"{source}: images must be (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), got {images.shape}")


def _bytes(images: np.ndarray, source: str) -> np.ndarray:
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8)
    low, high = float(images.min()), float(images.max())
    if np.issubdtype(images.dtype, np.integer) and low >= 0 and high <= 255:
        return images.astype(np.uint8)
    if np.issubdtype(images.dtype, np.floating) and low >= 0 and high <= 1:
        return np.rint(images * 255).astype(np.uint8)
    raise DataError(
        f"{source}: pixels are {images.dtype} from {low:g} to {high:g}; uint8 or floats from 0 to 1 are known "
        "(normalised images: undo it first)"
    )
