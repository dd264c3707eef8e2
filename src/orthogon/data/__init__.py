"""Where images come from: folders, parquet, Hugging Face datasets, torchvision, npz, and the built-in signs."""

from __future__ import annotations

from orthogon.data.errors import DataError
from orthogon.data.listing import aligned
from orthogon.data.opening import open_images
from orthogon.data.signs import signs

__all__ = ["DataError", "aligned", "open_images", "signs"]
