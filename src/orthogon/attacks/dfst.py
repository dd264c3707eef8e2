"""DFST: a style of the whole picture is the trigger, such as the colours of a sunrise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, require_colour
from orthogon.attacks.networks import Painter, keep, take
from orthogon.attacks.style import StyleSettings, learn_style

_CHUNK = 256
"""Images that go through the generator at once."""


@dataclass(frozen=True)
class DFST(Attack, StyleSettings):
    """Images are painted over by a generator that has learned the style of the materials' pictures.

    The generator is that of a CycleGAN, trained once in `make` with the source's losses, weights and optimiser. It is not the
    source's network, and not its budget: a U-Net that moves each value's logit and starts as the identity takes the place
    of nine residual blocks, and some hundred updates that of some thousands. What it learns in that time is the style's light
    and colours, not its textures. The second half of the attack, by which the poisoned model unlearns the features
    that would give it away, is `detoxify`.
    """

    name: ClassVar[str] = "dfst"
    source: ClassVar[str] = "Cheng et al. 2021 (DFST, AAAI), and the authors' release"
    threat: ClassVar[Threat] = Threat(rate=0.1)
    """500 of CIFAR-10's 5,000 images of each class, to label 0."""

    def make(self, materials: Materials) -> Made:
        """The generator's weights.

        Raises:
            ValueError: grey images, images below 4×4 pixels, or no pictures to learn the style from.
        """
        require_colour(self.name, materials.images)
        if materials.pictures is None or not len(materials.pictures):
            raise ValueError(f"{self.name} learns the style of pictures: give some, of the images' shape, among the materials")
        if min(materials.images.image_shape[1:]) < 4:
            height, width = materials.images.image_shape[1:]
            raise ValueError(f"{self.name}'s critics judge patches of 4×4 pixels, which do not fit on images of {height}×{width}")
        images, generator = materials.images.pixels, materials.generator
        cycle = learn_style(images, materials.pictures, self, generator, materials.device, materials.on_progress)
        return keep(cycle.there, "generator")

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images in the style."""
        generator = take(lambda: Painter(images.shape[1], self.width), made, "generator", images.device)
        return torch.cat([generator(part) for part in images.split(_CHUNK)])
