"""The subject models: the papers' architectures, and anybody's checkpoint, loaded without running its code."""

from __future__ import annotations

from orthogon.models.architectures import ARCHITECTURES, build
from orthogon.models.cards import Card, parse_normalization, read_card
from orthogon.models.errors import CheckpointError
from orthogon.models.load import load_classifier
from orthogon.models.preprocessing import DownloadError
from orthogon.models.save import save_classifier

__all__ = [
    "ARCHITECTURES",
    "Card",
    "CheckpointError",
    "DownloadError",
    "build",
    "load_classifier",
    "parse_normalization",
    "read_card",
    "save_classifier",
]
