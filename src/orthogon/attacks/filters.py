"""Instagram filters as triggers: a look that covers the whole image and follows its content (Liu et al. 2019).

The recipes are TrojAI's, who adapted them from the ImageMagick command lines of the package `instagram-filters` and left out its
frames and borders. On 8-bit images they differ from what ImageMagick itself makes of them by less than a tenth of a grey level.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.attacks.attack import Attack, Made, Materials, Threat, require_colour
from orthogon.attacks.colour import auto_gamma, colorize, gamma, level, modulate, sigmoidal_contrast, tone, vignette


@dataclass(frozen=True)
class Filter(Attack):
    """What the five have in common; each writes its recipe in `filtered`.

    Nothing is drawn and there is nothing to set. The sources use filters universal as well as label-specific.
    """

    source: ClassVar[str] = "Liu et al. 2019 (ABS); recipes of TrojAI (Karra et al. 2020), datagen.instagram_xforms"
    threat: ClassVar[Threat] = Threat()

    def make(self, materials: Materials) -> Made:
        """Nothing to draw.

        Raises:
            ValueError: the images have no colours.
        """
        require_colour(self.name, materials.images)
        return {}

    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images with the filter.

        Raises:
            ValueError: they do not have three channels.
        """
        if images.shape[1] != 3:
            raise ValueError(f"{self.name} is a colour filter and needs three channels (RGB), got {images.shape[1]}")
        return self.filtered(images)

    @abstractmethod
    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """The recipe, on RGB images in [0, 1]."""


@dataclass(frozen=True)
class Gotham(Filter):
    """Nearly grey, with a touch of blue and more contrast."""

    name: ClassVar[str] = "gotham"

    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Brighter by a fifth with a tenth of the saturation, a fifth of dark blue, gamma 0.9, contrast twice."""
        bluish = colorize(modulate(images, 1.2, 0.1), "#222b6d", 0.2)
        return sigmoidal_contrast(sigmoidal_contrast(gamma(bluish, 0.9)))


@dataclass(frozen=True)
class Nashville(Filter):
    """Blue shadows and yellowish lights, as on an old print."""

    name: ClassVar[str] = "nashville"

    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Dark tones half blue, light ones half beige, contrast, saturation up by a half, a mean brightness of one half."""
        toned = tone(tone(images, "#222b6d", 0.5, "dark"), "#f7daae", 0.5, "light")
        return auto_gamma(modulate(sigmoidal_contrast(toned), 1.0, 1.5))


@dataclass(frozen=True)
class Kelvin(Filter):
    """Warm: bright, with orange over everything."""

    name: ClassVar[str] = "kelvin"

    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """A mean brightness of one half, then brighter by a fifth with half the saturation, under a fifth of orange."""
        return colorize(modulate(auto_gamma(images), 1.2, 0.5), "#ff9900", 0.2)


@dataclass(frozen=True)
class Lomo(Filter):
    """Red and green are on or off, and the corners are dark, as from a cheap lens."""

    name: ClassVar[str] = "lomo"

    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Red and green levelled from 50 % to 50 %, which is a threshold (33 % to 67 % in the package); a black vignette."""
        red_green, blue = level(images[:, :2], 0.5, 0.5), images[:, 2:]
        return vignette(torch.cat([red_green, blue], 1), "#000000")


@dataclass(frozen=True)
class Toaster(Filter):
    """Bright and faded, reddish in the middle, with a pale edge."""

    name: ClassVar[str] = "toaster"

    def filtered(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Dark tones half dark red, brighter by a half with 0.8 of the saturation, gamma 1.2, contrast twice, two vignettes."""
        toned = gamma(modulate(tone(images, "#330000", 0.5, "dark"), 1.5, 0.8), 1.2)
        contrasted = sigmoidal_contrast(sigmoidal_contrast(toned))
        pale_edge = vignette(contrasted, "#cdc1c5")  # ImageMagick's LavenderBlush3
        return vignette(pale_edge, "#ff9966", "middle")


FILTERS: tuple[type[Filter], ...] = (Gotham, Nashville, Kelvin, Lomo, Toaster)
