"""Images that are arrays already: `.npz` files, and what other libraries hold in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from orthogon.data.classes import numbered
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing, memory_bound
from orthogon.data.parquet import labelled
from orthogon.data.splits import HELD_OUT_FIRST, choose_split

_IMAGE_KEYS = ("x", "images", "image", "data", "X")
_LABEL_KEYS = ("y", "labels", "label", "targets", "Y")
_BROKEN = (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, ValueError)
"""What a file raises that is no whole archive of arrays."""
_BLOCK = 1 << 24  # bytes of an array that are read at a time


def list_npz(path: Path, split: str | None) -> Listing:
    """Arrays of an `.npz`: `x`/`y` or `images`/`labels`, with a split `x_test`/`y_test` or `test_images`/`test_labels`.

    Pixels are uint8 (or whole numbers from 0 to 255), or floats in [0, 1]; layouts as `list_arrays` says. An array
    `classes` of strings names the classes. Images are read when they are fetched, so that an archive larger than the
    memory can be sampled; stored column by column (Fortran's order) they can only be read whole.

    Raises:
        DataError: not such a file; pickled objects inside (never loaded: they could run code); no such split; what must
            be read whole is larger than `memory_bound`.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is one array, not an archive")
        with archive:
            keys = _splits(list(archive), path)
            chosen = choose_split(split, keys, str(path))
            source = f"{path} ({chosen})" if chosen else str(path)
            images = _Member.of(archive, keys[chosen][0], path)
            _channels_last(np.broadcast_to(np.zeros((), images.dtype), images.shape), source)  # its shape alone is judged
            labels = _whole(archive, keys[chosen][1], path)
            names = tuple(str(name) for name in _whole(archive, "classes", path)) if "classes" in archive else ()
            whole = _whole(archive, images.key, path) if images.by_column else None
    except DataError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error
    if whole is not None:
        return list_arrays(whole, labels, names, source)
    return _listed(images.shape[0], lambda indices: _read(path, images, indices, source), labels, names, source)


def list_arrays(images: np.ndarray, labels: np.ndarray, classes: Sequence[str], source: str) -> Listing:
    """Arrays (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w) with labels (n,) or (n, 1).

    Raises:
        DataError: other shapes, lengths that differ, pixels of unknown range, labels that are not whole numbers.
    """
    pixels = _bytes(_channels_last(images, source), source)
    return _listed(len(pixels), lambda indices: (pixels[i] for i in indices), labels, classes, source)


def _listed(
    count: int,
    rows: Callable[[Sequence[int]], Iterator[np.ndarray]],
    labels: np.ndarray,
    classes: Sequence[str],
    source: str,
) -> Listing:
    labels = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype.kind == "U"):
        raise DataError(f"{source}: labels must be whole numbers (n,), got {labels.dtype} {labels.shape}")
    if len(labels) != count:
        raise DataError(f"{source}: {count} images but {len(labels)} labels")
    values = labels.tolist()
    numbers, names = labelled(values, classes, source) if labels.dtype.kind != "U" else numbered(values)

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return ((f"{source} image {i}", row) for i, row in zip(indices, rows(indices), strict=True))

    return Listing(numbers, names, source, fetch)


@dataclass(frozen=True)
class _Member:
    """An array of an archive, as its header tells of it."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    by_column: bool

    @classmethod
    def of(cls, archive: np.lib.npyio.NpzFile, key: str, path: Path) -> _Member:
        assert archive.zip is not None
        with archive.zip.open(f"{key}.npy") as stream:
            shape, by_column, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError("pickled objects")
        if (size := prod(shape[1:]) * dtype.itemsize) > memory_bound():
            raise DataError(f"{path}: one image of {key} {shape} takes {size:,} bytes, more than a data set may take here")
        return cls(key, shape, dtype, by_column)


def _header(stream: IO[bytes] | zipfile.ZipExtFile) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type; the stream stands at the first element then."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _whole(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    member = _Member.of(archive, key, path)
    size, most = prod(member.shape) * member.dtype.itemsize, memory_bound()
    if size > most:
        raise DataError(
            f"{path}: {key} {member.shape} takes {size:,} bytes and can only be read whole, at most {most:,} may be taken here; "
            "store images row by row (numpy.ascontiguousarray), or fewer"
        )
    return archive[key]


def _read(path: Path, member: _Member, indices: Sequence[int], source: str) -> Iterator[np.ndarray]:
    """Images of ascending indices, a block of the file in memory at a time."""
    rows, shape = np.asarray(indices), member.shape[1:]
    size = prod(shape) * member.dtype.itemsize
    step, end = max(1, _BLOCK // max(1, size)), int(rows[-1]) + 1
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member.key}.npy") as stream:
            _header(stream)
            for at in range(0, end, step):
                count = min(step, end - at)
                block = np.frombuffer(stream.read(count * size), member.dtype).reshape(count, *shape)
                mine = rows[np.searchsorted(rows, at) : np.searchsorted(rows, at + count)] - at
                yield from _bytes(_channels_last(block[mine], source), source)
    except DataError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    refused = "pickle" in str(error)
    return DataError(f"{path} cannot be read: {'it holds pickled Python objects, which could run code' if refused else error}")


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
