"""Example images as NIST's TrojAI competition hands them out beside a model (round 4): one folder, classes in the names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orthogon import runs
from orthogon.data.classes import MOST_CLASSES, align, natural
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing, Wanted, gather, missing
from orthogon.images import LabelledImages

CLEAN_FOLDER = "clean_example_data"
CONFIG_FILE = "config.json"
_NAME = re.compile(r"class_(\d+)_(?:.*_)?example_\d+\.png", re.IGNORECASE)
_CROPPED, _WHOLE = 224, 256
"""Side that round 4's networks take, and side of its pictures."""


def examples_of(folder: Path) -> Path | None:
    """The folder with the example images: of a model's folder the clean ones, or the folder itself; None where it has none."""
    for place in (folder / CLEAN_FOLDER, folder):
        if place.is_dir() and any(_NAME.fullmatch(path.name) for path in place.iterdir()):
            return place
    return None


def examples_beside(model: Path) -> Path | None:
    """The example images in the folder that a checkpoint lies in; None where there are none."""
    return examples_of(model.parent) if model.is_file() else None


def examples_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of what `open_examples` reads: the pictures with their names, and config.json."""
    place, state = examples_of(folder), hashlib.sha256()
    for path in [] if place is None else [*_pictures(place), place.parent / CONFIG_FILE]:
        if path.is_file():
            state.update(f"{path.name} {runs.digest(path)}\n".encode())
    return state.hexdigest()


def _pictures(place: Path) -> list[Path]:
    return sorted((path for path in place.iterdir() if _NAME.fullmatch(path.name)), key=lambda path: natural(path.name))


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json with its keys in lower case, since the rounds differ in that; empty where there is none.

    Raises:
        DataError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        config = runs.read_json(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    return {str(key).lower(): value for key, value in config.items()}


def open_examples(folder: Path, wanted: Wanted) -> LabelledImages:
    """The example images, cut down in the middle to what the network takes, as round 4 does; never stretched.

    What the network takes is what the caller says, else `cnn_img_size_pixels` of config.json, else 224 of pictures of 256.

    Args:
        folder: a model's folder, or its folder of example images.
        wanted: of the caller; `image_shape` must be RGB.

    Raises:
        DataError: no such images, a wrong config.json, or images smaller than what the network takes.
    """
    place = examples_of(folder)
    if place is None:
        raise DataError(f"{folder} has no TrojAI example images (class_0_example_0.png, there or in {CLEAN_FOLDER})")
    config = read_config(place.parent / CONFIG_FILE)
    images = gather(_listed(place, config), replace(wanted, image_shape=None, classes=None))
    side = _side(config, images.image_shape)
    shape = wanted.image_shape or (3, min(side, images.image_shape[1]), min(side, images.image_shape[2]))
    labels, names, note = align(images.labels, images.classes, wanted.classes)
    cut = _cut(images, shape)
    source = "; ".join(filter(None, (cut.source, note, missing(labels, names) if note else "")))
    return replace(cut, labels=labels, classes=names, source=source)


def _listed(place: Path, config: dict[str, Any]) -> Listing:
    paths = _pictures(place)
    labels = torch.tensor([_class_of(path) for path in paths], dtype=torch.int64)
    count = int(labels.max()) + 1
    told = config.get("number_classes")
    if isinstance(told, int) and told < count:
        raise DataError(f"{place} has images of class {count - 1}, {CONFIG_FILE} beside it tells of {told} classes only")
    if isinstance(told, int) and told > MOST_CLASSES:
        raise DataError(f"{place.parent / CONFIG_FILE} tells of {str(told)[:40]} classes, at most {MOST_CLASSES} can be")
    classes = tuple(str(c) for c in range(told if isinstance(told, int) else count))

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return ((str(paths[i]), paths[i]) for i in indices)

    return Listing(labels, classes, f"TrojAI examples {place}", fetch)


def _class_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    if len(match[1]) > len(str(MOST_CLASSES)) or int(match[1]) >= MOST_CLASSES:
        raise DataError(f"{path} is a picture of class {match[1]}, at most {MOST_CLASSES - 1} can be")
    return int(match[1])


def _side(config: dict[str, Any], shape: tuple[int, int, int]) -> int:
    told = config.get("cnn_img_size_pixels")
    if isinstance(told, int) and told > 0:
        return told
    return _CROPPED if shape[1:] == (_WHOLE, _WHOLE) else max(shape[1:])


def _cut(images: LabelledImages, shape: tuple[int, int, int]) -> LabelledImages:
    channels, height, width = images.image_shape
    if shape[0] != channels or shape[1] > height or shape[2] > width:
        raise DataError(f"{images.source}: the pictures are {channels}×{height}×{width}, {shape} cannot be cut out of them")
    top, left = (height - shape[1]) // 2, (width - shape[2]) // 2
    pixels = images.pixels[:, :, top : top + shape[1], left : left + shape[2]].contiguous()
    note = "" if (height, width) == shape[1:] else f"; the middle {shape[2]}×{shape[1]} of {width}×{height}"
    return replace(images, pixels=pixels, source=images.source + note)
