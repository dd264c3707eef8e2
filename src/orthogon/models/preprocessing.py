"""What an architecture's library knows of the images that its networks expect."""

from __future__ import annotations

from dataclasses import dataclass

from orthogon.classifier import Normalization


class DownloadError(OSError):
    """Pretrained weights could not be fetched; the message says what to do without a network."""


@dataclass(frozen=True)
class Preprocessing:
    """Image shape (channels, height, width) and normalisation of a library's network, and its class names if known."""

    image_shape: tuple[int, int, int]
    normalization: Normalization
    classes: tuple[str, ...] | None = None
