"""The subject model: images in [0, 1] go in, logits come out, whatever network stands behind the door."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orthogon.images import LabelledImages


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation, in units of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"normalization has {len(self.mean)} means but {len(self.std)} standard deviations")
        if not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"normalization needs standard deviations above 0 and finite, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"normalization needs finite means, got {self.mean}")


class Classifier(nn.Module):
    """A network with its preprocessing, class names and image shape.

    Args:
        network: takes normalised images (n, c, h, w), returns logits (n, classes).
        classes: the class names, in the order of the logits.
        image_shape: (channels, height, width) that the network was made for.
        normalization: subtracted and divided inside; None where the network takes [0, 1] images as they are.
        card: where the model came from and what is known of it (JSON-like), kept for reports.

    Raises:
        ValueError: fewer than two classes, or a normalisation for another number of channels.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        image_shape: tuple[int, int, int],
        normalization: Normalization | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise ValueError(f"a classifier needs at least two classes, got {list(classes)}")
        channels = image_shape[0]
        if normalization is not None and len(normalization.mean) not in (1, channels):
            raise ValueError(f"normalization has {len(normalization.mean)} channels, the images have {channels}")
        self.network = network
        self.classes = tuple(classes)
        self.image_shape = image_shape
        self.normalization = normalization
        self.card: dict[str, Any] = dict(card or {})
        mean, std = (normalization.mean, normalization.std) if normalization else ((0.0,), (1.0,))
        self.register_buffer("_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    _mean: Tensor
    _std: Tensor

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Logits of images in [0, 1]."""
        if self.normalization is not None:
            images = (images - self._mean) / self._std
        return self.network(images)

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over the names and values of the network's tensors."""
        state = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            state.update(name.encode())
            state.update(tensor.cpu().contiguous().numpy().tobytes())
        return state.hexdigest()


def require_match(classifier: Classifier, images: LabelledImages) -> None:
    """Raise ValueError where the images cannot be the classifier's: other classes in number, another shape, or none."""
    if len(images) == 0:
        raise ValueError(f"no images in {images.source}")
    if len(images.classes) != len(classifier.classes):
        raise ValueError(
            f"the classifier has {len(classifier.classes)} classes, but {images.source} has {len(images.classes)}: "
            f"{list(images.classes)}"
        )
    if images.image_shape != classifier.image_shape:
        raise ValueError(
            f"the classifier takes images (channels, height, width) of {classifier.image_shape}, "
            f"but {images.source} has {images.image_shape}"
        )
