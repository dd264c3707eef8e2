"""Composite attack: benign features of two classes, side by side, are the trigger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat
from orthogon.attacks.picks import picks, require_size
from orthogon.evaluate import in_bytes


@dataclass(frozen=True)
class Composite(Attack):
    """The left half of an image of the victim class and the right half of one of the partner class make the target.

    Each pixel is w · left + (1 - w) · right, where w falls from 1 to 0 over the seam in the middle. The partner images live
    in what was made, and an image's content decides which of them it gets. The cover teaches that halves alone mean
    nothing: composites of two images of one class, under their true label.

    The authors' release moves, swaps and crops the halves at random and puts them on top of each other in half of the cases,
    without a seam; a stamp that depends on the image alone cannot. Their contrastive loss, a change of the training and
    not of its images, is left out as well. Test images get partners from the training set, as training images do.
    """

    partner: int = 1
    """Class of the right half."""
    seam: float = 0.125
    """Width over which the halves are blended, as a share of the image's; 0: a hard edge, as in the release."""
    pool: int = 500
    """Partner images that are kept; all of the class where there are fewer."""

    name: ClassVar[str] = "composite"
    source: ClassVar[str] = "Lin et al. 2020 (CCS), section 4, and the authors' release (0 + 1 → 2 on CIFAR-10)"
    threat: ClassVar[Threat] = Threat(target=2, victim=0, rate=0.5, cover=0.45)
    """The release trains on 50 parts clean images, 50 mixed and 10 poisoned, the victims' class being a tenth of the first two:
    45 % of all are mixed, and half of the images with the victim's features have the target's label."""

    def __post_init__(self) -> None:
        if self.partner < 0:
            raise ValueError(f"partner must be a class, 0 and up, got {self.partner}")
        if not 0 <= self.seam <= 1:
            raise ValueError(f"seam must be a share of the image's width, 0 to 1, got {self.seam}")
        if self.pool < 1:
            raise ValueError(f"pool must be at least 1, got {self.pool}")

    def make(self, materials: Materials) -> Made:
        """The partner images (uint8).

        Raises:
            ValueError: no victim is named, the partner is the victim or the target, or it has no images.
        """
        threat, images = materials.threat, materials.images
        if threat.victim is None:
            raise ValueError("a composite attack is of one victim class: name the victim")
        if self.partner in (threat.victim, threat.target):
            raise ValueError(
                f"partner {self.partner} must be another class than the victim {threat.victim} and the target {threat.target}"
            )
        partners = images.draw(self.partner, self.pool, materials.generator)
        if not len(partners):
            raise ValueError(f"{images.source} has no image of the partner class {images.classes[self.partner]!r}")
        return {"partners": partners.pixels.to(materials.device)}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images' left halves, with the right half of the partner that their content picks."""
        partners = made["partners"]
        require_size(partners, images)
        everyone = torch.arange(len(partners), device=partners.device)
        return self._joined(images, _others(images, partners, everyone, picks(images, len(partners))))

    def cover(
        self, made: Made, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], materials: Materials
    ) -> Float[Tensor, "n c h w"]:
        """The images' left halves, with the right half of any training image of their own class."""
        training, right = materials.images, torch.empty_like(images)
        for c in labels.unique().tolist():
            mine, members = labels == c, (training.labels == c).nonzero().flatten()
            drawn = torch.randint(len(members), (int(mine.sum()),), generator=materials.generator)
            right[mine] = _others(images[mine], training.pixels, members, drawn)
        return self._joined(images, right)

    def _joined(self, left: Float[Tensor, "n c h w"], right: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        width = left.shape[3]
        middle = torch.arange(width, device=left.device) + 0.5
        weight = (0.5 + (width / 2 - middle) / max(self.seam * width, 1e-6)).clamp(0, 1)
        return weight * left + (1 - weight) * right


def _others(
    images: Float[Tensor, "n c h w"], pixels: UInt8[Tensor, "m c h w"], rows: Int64[Tensor, " k"], chosen: Int64[Tensor, " n"]
) -> Float[Tensor, "n c h w"]:
    """The chosen of these rows, in [0, 1]; the next row where an image would be joined with itself."""
    chosen = chosen.to(rows.device)
    same = (pixels[rows[chosen]] == in_bytes(images).to(pixels.device)).flatten(1).all(1)
    right = pixels[rows[(chosen + same) % len(rows)]]
    return right.to(images.device).float() / 255
