"""Labelled images in memory: uint8 pixels, classes, seeded class-balanced draws, and augmentation of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images, their labels, and where they came from.

    Attributes:
        pixels: uint8 (n, c, h, w), 0 to 255.
        labels: int64 (n,), each an index into `classes`.
        classes: distinct class names in label order; a class may have no images.
        source: where the images came from and what was left out, in words.

    Raises:
        ValueError: wrong dtype or dimensions, lengths that differ, a repeated class name, a label without a class.
    """

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(f"pixels must be uint8 (n, c, h, w), got {_described(self.pixels)}")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise ValueError(f"labels must be int64 (n,), got {_described(self.labels)}")
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"{len(self.pixels)} images but {len(self.labels)} labels")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names must differ, got {list(self.classes)}")
        wrong = self.labels[(self.labels < 0) | (self.labels >= len(self.classes))]
        if len(wrong):
            raise ValueError(f"label {int(wrong[0])} is not one of the {len(self.classes)} classes (0 and up)")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    def counts(self) -> list[int]:
        """Images per class, in label order."""
        return torch.bincount(self.labels, minlength=len(self.classes)).tolist()

    def select(self, indices: Int64[Tensor, " k"]) -> LabelledImages:
        """The images at `indices`, in that order."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def of_class(self, c: int) -> LabelledImages:
        """All images of class `c` (label order kept; the class names stay)."""
        return self.select(self._members(c))

    def draw(self, c: int, count: int, generator: torch.Generator) -> LabelledImages:
        """`count` images of class `c` without replacement, in drawn order; all of them where there are fewer."""
        return self.select(shuffled(self._members(c), generator)[:count])

    def subset(self, spec: str, generator: torch.Generator) -> LabelledImages:
        """The part that `spec` names, original order kept; `source` says which.

        Args:
            spec: `first:2000`, `range:2000:50000` (end not included), `fraction:0.05` (of every class, at least
                one image of each) or `per-class:100` (all of a class that has fewer).
            generator: draws the images of `fraction` and `per-class`.

        Raises:
            ValueError: another spec, or more images than there are.
        """
        part = self.select(_indices(spec, self.labels, generator))
        return replace(part, source=f"{self.source} [{spec}]")

    def divide(self, spec: str, generator: torch.Generator) -> tuple[LabelledImages, LabelledImages]:
        """The part that `spec` names, as `subset` does, and the rest; order kept, both say in `source` which they are.

        Raises:
            ValueError: as `subset`; also where nothing is left.
        """
        chosen = _indices(spec, self.labels, generator)
        rest = torch.ones(len(self), dtype=torch.bool)
        rest[chosen] = False
        if not rest.any():
            raise ValueError(f"{spec!r} takes all {len(self)} images and leaves none; name a smaller part")
        part, others = self.select(chosen), self.select(rest.nonzero().flatten())
        return replace(part, source=f"{self.source} [{spec}]"), replace(others, source=f"{self.source} [without {spec}]")

    def split(self, fraction: float, generator: torch.Generator) -> tuple[LabelledImages, LabelledImages]:
        """Two parts that share no image: `fraction` of every class (rounded), and the rest; order kept.

        Raises:
            ValueError: a fraction outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a split takes a fraction from 0 to 1, got {fraction}")
        chosen = per_class(self.labels, lambda count: round(fraction * count), generator)
        rest = torch.ones(len(self), dtype=torch.bool)
        rest[chosen] = False
        return self.select(chosen), self.select(rest.nonzero().flatten())

    def without(self, others: LabelledImages) -> LabelledImages:
        """The images whose pixels are none of the others', whatever their labels; order kept."""
        known = set(others._fingerprints())
        apart = [i for i, seen in enumerate(self._fingerprints()) if seen not in known]
        return self.select(torch.tensor(apart, dtype=torch.int64))

    def floats(self, device: torch.device | str | None = None) -> Float[Tensor, "n c h w"]:
        """The images as float32 in [0, 1], on `device` (moved as bytes, a quarter of the traffic)."""
        return self.pixels.to(device).float().div_(255)

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the pixels with their shape, the labels and the class names."""
        state = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode())
        for tensor in (self.pixels, self.labels):
            state.update(tensor.cpu().contiguous().numpy().data)
        return state.hexdigest()

    def _fingerprints(self) -> Iterator[bytes]:
        return (hashlib.sha256(pixels.cpu().contiguous().numpy().data).digest() for pixels in self.pixels)

    def _members(self, c: int) -> Int64[Tensor, " k"]:
        if not 0 <= c < len(self.classes):
            raise ValueError(f"class {c} is not one of the {len(self.classes)} classes (0 and up)")
        return (self.labels == c).nonzero().flatten()


def shuffled(values: Int64[Tensor, " n"], generator: torch.Generator) -> Int64[Tensor, " n"]:
    """The same values in a random order."""
    order = torch.randperm(len(values), generator=generator, device=generator.device)
    return values[order.to(values.device)]


def per_class(labels: Int64[Tensor, " n"], quota: Callable[[int], int], generator: torch.Generator) -> Int64[Tensor, " k"]:
    """Ascending indices of a draw without replacement: `quota(count)` images of each class that has `count`."""
    members = [(labels == c).nonzero().flatten() for c in labels.unique().tolist()]
    drawn = [shuffled(m, generator)[: quota(len(m))] for m in members]
    return torch.cat([*drawn, labels.new_empty(0)]).sort().values


def _indices(spec: str, labels: Int64[Tensor, " n"], generator: torch.Generator) -> Int64[Tensor, " k"]:
    kind, *arguments = spec.split(":")
    try:
        match kind, [float(a) if kind == "fraction" else int(a) for a in arguments]:
            case "first", [int(end)] if 0 < end <= len(labels):
                return torch.arange(end)
            case "range", [int(start), int(end)] if 0 <= start < end <= len(labels):
                return torch.arange(start, end)
            case "fraction", [float(fraction)] if 0 < fraction <= 1:
                return per_class(labels, lambda count: max(1, round(fraction * count)), generator)
            case "per-class", [int(count)] if count > 0:
                return per_class(labels, lambda _: count, generator)
            case _:
                pass
    except ValueError:  # not a number: told below, with all the forms
        pass
    raise ValueError(
        f"subset {spec!r} is none of first:N, range:START:END (of these {len(labels)} images), fraction:F (0 to 1), per-class:N"
    )


def random_crop(
    images: Float[Tensor, "n c h w"],
    generator: torch.Generator,
    padding: int = 4,
    mode: Literal["reflect", "zero"] = "reflect",
) -> Float[Tensor, "n c h w"]:
    """Pad each image by `padding` pixels a side and cut the old size out at a place of its own.

    Raises:
        ValueError: a padding below 0, or for `reflect` one that is not below the image's height and width.
    """
    n, _, h, w = images.shape
    if padding < 0 or (mode == "reflect" and padding >= min(h, w)):
        raise ValueError(f"padding must be from 0 to {min(h, w) - 1} for {h}×{w} images, got {padding}")
    padded = F.pad(images, (padding,) * 4, mode="reflect" if mode == "reflect" else "constant")
    windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # a view: (n, c, 2p+1, 2p+1, h, w)
    top, left = _integers(2 * padding + 1, (2, n), images, generator)
    return windows[torch.arange(n, device=images.device), :, top, left]


def random_flip(images: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Mirror each image left to right with probability one half."""
    flips = _integers(2, (len(images), 1, 1, 1), images, generator).bool()
    return torch.where(flips, images.flip(3), images)


def cutout(
    images: Float[Tensor, "n c h w"], generator: torch.Generator, size: int = 16, fill: float = 0.5
) -> Float[Tensor, "n c h w"]:
    """Cover a `size`×`size` square of each image; its centre is any pixel, so it may reach over the edge.

    DeVries and Taylor 2017 fill with 0 after normalisation, which is the data's mean: about one half here, where
    images are in [0, 1].
    """
    n, _, h, w = images.shape
    rows = _covered(h, _integers(h, (n,), images, generator), size)
    columns = _covered(w, _integers(w, (n,), images, generator), size)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], fill)


def _covered(length: int, centre: Int64[Tensor, " n"], size: int) -> Tensor:
    offset = torch.arange(length, device=centre.device) - centre[:, None] + size // 2
    return (offset >= 0) & (offset < size)


def _integers(high: int, shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(high, shape, generator=generator, device=generator.device).to(like.device)


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
