"""What a source holds before any image is decoded, and how it is brought into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from orthogon.data.classes import align
from orthogon.data.decoding import Decoded, Encoded, decode_all
from orthogon.data.errors import DataError
from orthogon.images import LabelledImages, per_class
from orthogon.machine import memory_bytes
from orthogon.printing import sound

_TOLD = 5  # broken images that an error names


@dataclass(frozen=True, eq=False)
class Listing:
    """Labels, class names and provenance of a source, with the way to its images."""

    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    source: str
    fetch: Callable[[Sequence[int]], Iterator[tuple[str, Encoded]]]
    """Gives (name for errors, encoded image) for ascending indices."""


@dataclass(frozen=True)
class Wanted:
    """What the caller asks of every source."""

    image_shape: tuple[int, int, int] | None = None
    """(channels, height, width); None: as the images are."""
    classes: Sequence[str] | None = None
    """A classifier's class names, in its order; None: the data's own."""
    limit: int | None = None
    """Most images of one class."""
    seed: int = 0
    """Of the draw where not all are taken."""
    memory: int | None = None
    """Most bytes of pixels; None: `memory_bound`."""
    skip_corrupt: bool = False
    """Leave out images that cannot be read, and say so, instead of an error."""


def gather(listing: Listing, wanted: Wanted) -> LabelledImages:
    """Bring a source into memory: labels aligned, at most so many per class, decoded, of one size.

    Raises:
        DataError: no images, a class name that is not UTF-8, classes that do not match, images that cannot be read, or
            mixed sizes.
    """
    if unsound := [name for name in listing.classes if sound(name) != name]:
        raise DataError(
            f"{sound(listing.source)}: the class name {sound(unsound[0])} is not UTF-8; rename the class or its folder"
        )
    if not len(listing.labels):
        raise DataError(f"{listing.source} holds no images")
    labels, classes, note = align(listing.labels, listing.classes, wanted.classes)
    indices, sampled = _chosen(listing, wanted)
    pixels, kept = _stacked(decode_all(listing.fetch(indices.tolist()), wanted.image_shape), len(indices), wanted)
    labels = labels[indices][kept]
    skipped = f"{len(indices) - len(kept)} unreadable images left out" if len(kept) < len(indices) else ""
    notes = [listing.source, sampled, _resized(listing, wanted), note, skipped, missing(labels, classes)]
    return LabelledImages(torch.from_numpy(pixels), labels, classes, sound("; ".join(filter(None, notes))))


def aligned(images: LabelledImages, classes: Sequence[str]) -> LabelledImages:
    """The same images with labels in the order of a classifier's classes, where these became known after the images.

    Raises:
        DataError: as for `align`.
    """
    labels, names, note = align(images.labels, images.classes, classes)
    source = "; ".join(filter(None, (images.source, note, missing(labels, names))))
    return replace(images, labels=labels, classes=names, source=source)


def missing(labels: Int64[Tensor, " n"], classes: tuple[str, ...]) -> str:
    """A note that names the classes without images; empty where there are none."""
    counts = torch.bincount(labels, minlength=len(classes))
    names = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"no images of {', '.join(names[:_TOLD])}{more}" if names else ""


def per_class_cap(counts: Sequence[int], image_bytes: int, wanted: Wanted) -> tuple[int, str]:
    """How many images of a class to take so that the limit and the memory hold, and a note where they bind."""
    most = max(counts)
    cap = most if wanted.limit is None else min(most, wanted.limit)
    allowed = (memory_bound() if wanted.memory is None else wanted.memory) // image_bytes
    fitting = cap
    while fitting > 1 and sum(min(count, fitting) for count in counts) > allowed:
        fitting = max(1, min(fitting - 1, fitting * allowed // sum(min(count, fitting) for count in counts)))
    if fitting < cap:
        return fitting, f"sampled to fit the memory: at most {fitting} of {most} images per class"
    return cap, f"at most {cap} images per class" if cap < most else ""


def memory_bound() -> int:
    """Bytes that one data set may take here: a quarter of the machine's or its container's memory, 4 GiB where none is told."""
    whole = memory_bytes()
    return 4 << 30 if whole is None else whole // 4


def _chosen(listing: Listing, wanted: Wanted) -> tuple[Int64[Tensor, " k"], str]:
    if wanted.limit is not None and wanted.limit < 1:
        raise DataError(f"the limit of images per class must be at least 1, got {wanted.limit}")
    counts = torch.bincount(listing.labels).tolist()
    shape = wanted.image_shape or _first_shape(listing) or (3, 224, 224)  # the first is broken: told when all are decoded
    cap, note = per_class_cap(counts, prod(shape), wanted)
    if cap >= max(counts):
        return torch.arange(len(listing.labels)), note
    return per_class(listing.labels, lambda _: cap, torch.Generator().manual_seed(wanted.seed)), note


def _first_shape(listing: Listing) -> tuple[int, ...] | None:
    """(channels, height, width) of the first image as it is; None where it cannot be read."""
    return next((image.shape for _, image in decode_all(listing.fetch([0]), None) if not isinstance(image, str)), None)


def _resized(listing: Listing, wanted: Wanted) -> str:
    """A note where the images are stretched, judged by the first."""
    if wanted.image_shape is None or (own := _first_shape(listing)) is None or own[1:] == wanted.image_shape[1:]:
        return ""
    return f"resized to {_size(wanted.image_shape)} (width×height; the first image is {_size(own)})"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}×{shape[-2]}"


def _stacked(images: Iterator[tuple[str, Decoded]], count: int, wanted: Wanted) -> tuple[np.ndarray, Int64[Tensor, " k"]]:
    """All images as uint8 (k, c, h, w) with the positions of those that could be read; grey among RGB becomes RGB."""
    pixels: np.ndarray = np.empty(0, np.uint8)
    first, broken, kept = "", [], []
    for i, (name, image) in enumerate(images):
        if isinstance(image, str):
            broken.append(f"{name} ({image})")
            continue
        if not kept:
            pixels, first = np.empty((count, *image.shape), np.uint8), name
        elif image.shape[1:] != pixels.shape[2:]:
            raise _mixed(first, pixels.shape[2:], name, image.shape[1:])
        if image.shape[0] > pixels.shape[1]:
            pixels = np.repeat(pixels, image.shape[0], axis=1)
        pixels[len(kept)] = image
        kept.append(i)
    if broken and not (wanted.skip_corrupt and kept):
        more = f" and {len(broken) - _TOLD} more" if len(broken) > _TOLD else ""
        raise DataError(f"{len(broken)} of {count} images cannot be read: {', '.join(broken[:_TOLD])}{more}")
    return pixels[: len(kept)], torch.tensor(kept, dtype=torch.int64)


def _mixed(first: str, size: tuple[int, ...], name: str, other: tuple[int, ...]) -> DataError:
    return DataError(
        f"the images differ in size: {first} is {_size(size)}, {name} is {_size(other)} "
        "(width×height); set --image-size to resize them all"
    )
