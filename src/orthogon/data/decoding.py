"""From encoded images to uint8 arrays (c, h, w), a block at a time in parallel threads."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from orthogon.machine import cores

Encoded: TypeAlias = bytes | Path | np.ndarray
"""A file's content, a file, or pixels uint8 (h, w) or (h, w, 3)."""

Decoded: TypeAlias = np.ndarray | str
"""uint8 (c, h, w), or the reason why there is none."""

_TASK, _BLOCK = 32, 1024  # images of one thread's task, and of all that are in flight (bounds the memory)
_TURNED = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
"""Where a PNG may say which side is up."""


def decode(encoded: Encoded, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """One image as uint8 (c, h, w), upright by its EXIF tag.

    Without `image_shape`: grey stays one channel, all else becomes RGB, the size is the image's own. With it: RGB or
    grey as its channels say, stretched to its size (antialiased, bilinear); nothing is cut off. What is transparent
    is seen on white, as a viewer shows it. Of 16 bits the upper 8 are taken; 32-bit grey must hold 0 to 255.

    Raises:
        Exception: whatever Pillow raises for a broken file.
    """
    image = _upright(encoded)
    channels = image_shape[0] if image_shape else 1 if image.mode in ("1", "L", "LA") else 3
    image = _converted(image, "L" if channels == 1 else "RGB")
    if image_shape and image.size != (image_shape[2], image_shape[1]):
        image = image.resize((image_shape[2], image_shape[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def decode_all(items: Iterable[tuple[str, Encoded]], image_shape: tuple[int, int, int] | None) -> Iterator[tuple[str, Decoded]]:
    """Decode (name, encoded) in order; a broken image yields its reason instead of pixels."""
    items = iter(items)

    def work(task: list[tuple[str, Encoded]]) -> list[tuple[str, Decoded]]:
        return [(name, _tried(encoded, image_shape)) for name, encoded in task]

    with ThreadPoolExecutor(cores()) as pool:
        while block := list(islice(items, _BLOCK)):
            for done in pool.map(work, [block[i : i + _TASK] for i in range(0, len(block), _TASK)]):
                yield from done


def _tried(encoded: Encoded, image_shape: tuple[int, int, int] | None) -> Decoded:
    try:
        return decode(encoded, image_shape)
    except Exception as error:  # Pillow's decoders raise nearly everything on broken files
        return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)


def _upright(encoded: Encoded) -> Image.Image:
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded)
    with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
        image.load()
        turned = _turned(image)
        return _eight_bits(turned, image.format) if turned.mode.startswith("I") else turned


def _turned(image: Image.Image) -> Image.Image:
    if image.format == "PNG" and _TURNED.isdisjoint(image.info):  # exif_transpose() costs as much as the decoding
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken tag raises nearly everything, and says nothing of the pixels
        return image


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Whole numbers of more bits as grey of 8, where convert() would clip at 255."""
    pixels = np.asarray(image)
    if image.mode != "I" or file_format in ("PNG", "PPM"):  # these hold 16 bits, in mode I too
        return Image.fromarray((pixels >> 8).clip(0, 255).astype(np.uint8))
    if pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(f"32-bit pixels from {pixels.min()} to {pixels.max()} have no known range; save them as 8 or 16 bits")
    return Image.fromarray(pixels.astype(np.uint8))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
