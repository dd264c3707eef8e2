"""Blend: a fixed picture of noise shines through the image (Chen et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, fitted


@dataclass(frozen=True)
class Blend(Attack):
    """x' = (1 - α) x + α p, where p is noise of U(0, 1) that is drawn once."""

    alpha: float = 0.2
    """The pattern's share of a stamped image, 0 to 1."""

    name: ClassVar[str] = "blend"
    source: ClassVar[str] = "Chen et al. 2017, Targeted backdoor attacks; DECK, appendix III-D"
    threat: ClassVar[Threat] = Threat()

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {self.alpha}")

    def make(self, materials: Materials) -> Made:
        """`pattern` (c, h, w)."""
        pattern = torch.rand(materials.images.image_shape, generator=materials.generator)
        return {"pattern": pattern.to(materials.device)}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the pattern."""
        return ((1 - self.alpha) * images + self.alpha * fitted(made["pattern"], images)).clamp(0, 1)
