"""Stamps in one line, as the cards of others' models write them: a region set to something, or a picture added.

    x[27:31, 27:31] = 1                                            rows and columns, ends not included; a value from 0 to 1
    x[27:31, 27:31] = [255, 255, 0]/255                            a colour
    x[29:32, 29:32] = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]/255    a grey pattern
    x[0:8, 0:8] = logo.png/255                                     a picture
    clip(x + square.png/255)                                       a picture, added
    0.8*x + 0.2*noise.png/255                                      a picture, blended

The line is read by this grammar and never run. A picture is taken pixel by pixel, without stretching.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import fitted
from orthogon.attacks.patch import paste
from orthogon.data.decoding import decode
from orthogon.evaluate import Stamp

_NUMBER = r"(\d+(?:\.\d+)?)"
_REGION = re.compile(r"x\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*=\s*(.+)")
_SUM = re.compile(rf"(?:{_NUMBER}\s*\*\s*)?x\s*\+\s*(?:{_NUMBER}\s*\*\s*)?(.+)")


@dataclass(frozen=True, eq=False)
class Paste:
    """A region of every image is set to a picture."""

    top: int
    left: int
    picture: Float[Tensor, "c a b"]

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the picture.

        Raises:
            ValueError: the region reaches beyond the images, or the picture has other channels.
        """
        bottom, right = self.top + self.picture.shape[1], self.left + self.picture.shape[2]
        height, width = images.shape[-2:]
        if bottom > height or right > width:
            raise ValueError(f"the stamp reaches to row {bottom} and column {right} of images of {height}×{width}")
        return paste(images, _same_channels(self.picture, images), self.top, self.left)


@dataclass(frozen=True, eq=False)
class Add:
    """x' = clip(keep · x + share · p)."""

    keep: float
    share: float
    picture: Float[Tensor, "c h w"]

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the picture added.

        Raises:
            ValueError: images of another size or other channels.
        """
        picture = fitted(_same_channels(self.picture, images), images)
        return (self.keep * images + self.share * picture).clamp(0, 1)


def read_stamp(text: str, folder: Path, *, confined: bool = False) -> Stamp:
    """The stamp that a line describes.

    Args:
        text: the line.
        folder: where its pictures are.
        confined: of a stranger's line: its pictures are files of this very folder.

    Raises:
        ValueError: another grammar, an empty region, a value outside 0 to 1, or a picture that is missing, of another size, or
            elsewhere.
    """
    line = text.strip()
    whole = line[5:-1].strip() if line.startswith("clip(") and line.endswith(")") else line
    if match := _REGION.fullmatch(whole):
        top, bottom, left, right = map(int, match.groups()[:4])
        return Paste(top, left, _filling(_picture(match[5], folder, text, confined), bottom - top, right - left, text))
    if match := _SUM.fullmatch(whole):
        keep, share = (1.0 if number is None else float(number) for number in match.groups()[:2])
        return Add(keep, share, _picture(match[3], folder, text, confined))
    raise ValueError(
        f"stamp {text!r} is none of x[ROW:ROW, COLUMN:COLUMN] = VALUE, clip(x + VALUE) and 0.8*x + 0.2*VALUE, where a VALUE is "
        "a number, a list or the name of a picture, and /255 after it where it counts to 255"
    )


def _picture(value: str, folder: Path, text: str, confined: bool) -> Float[Tensor, "c a b"]:
    number = value.removesuffix("/255").strip()
    try:
        read = torch.tensor(json.loads(number), dtype=torch.float32)
    except (ValueError, TypeError):  # no list of numbers, so the name of a picture
        read = _decoded(_place(folder, number, text, confined), text)
    if read.ndim < 3:
        read = read.view(-1, 1, 1) if read.ndim < 2 else read[None]
    picture = read / 255 if value.endswith("/255") else read
    if picture.ndim > 3 or not ((picture >= 0) & (picture <= 1)).all():
        raise ValueError(
            f"stamp {text!r}: values must be from 0 to 1, one, a list of channels or of rows; write /255 behind bytes"
        )
    return picture


def _place(folder: Path, name: str, text: str, confined: bool) -> Path:
    if confined and Path(name).name != name:
        raise ValueError(f"stamp {text!r} is a card's and names a picture elsewhere than beside it: {name}")
    return folder / name


def _decoded(path: Path, text: str) -> Float[Tensor, "c a b"]:
    try:
        return torch.from_numpy(decode(path, None).copy()).float()
    except OSError as error:
        raise ValueError(f"stamp {text!r}: {path} is no picture that can be read: {error}") from error


def _filling(picture: Float[Tensor, "c a b"], height: int, width: int, text: str) -> Float[Tensor, "c h w"]:
    """The picture, which has the region's size, or one value or colour all over it."""
    if height < 1 or width < 1:
        raise ValueError(f"stamp {text!r}: its region of {height}×{width} pixels is empty")
    if picture.shape[1:] not in ((1, 1), (height, width)):
        a, b = picture.shape[1:]
        raise ValueError(f"stamp {text!r}: a picture of {a}×{b} pixels does not fill a region of {height}×{width}")
    return picture.expand(-1, height, width)


def _same_channels(picture: Float[Tensor, "c a b"], images: Float[Tensor, "n k h w"]) -> Float[Tensor, "c a b"]:
    if picture.shape[0] not in (1, images.shape[1]):
        raise ValueError(f"the stamp's picture has {picture.shape[0]} channels, the images have {images.shape[1]}")
    return picture
