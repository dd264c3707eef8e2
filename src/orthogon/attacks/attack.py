"""What an attack has to offer; poisoning a training set and judging the result do the rest for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from orthogon.classifier import Classifier, require_match
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.ranges import require

Made: TypeAlias = dict[str, Tensor]
"""What an attack's stamp needs beyond its settings, by name: a pattern, a warp, a generator's weights. Empty for a formula."""


@dataclass(frozen=True)
class Threat:
    """Who is attacked, and how much of a training set is poisoned."""

    target: int = 0
    """Class that stamped images are to be taken for."""
    victim: int | None = None
    """Class that the trigger works on (label-specific); None: on every class (universal)."""
    rate: float = 0.1
    """Poisoned share, 0 to 1: of the victims' images (all but the target class, or the victim class), which get the target's
    label; with clean labels of the target class's images, which keep theirs."""
    clean_label: bool = False
    """Whether poisoned images keep their true label, so that nothing in the set is mislabelled."""
    cover: float = 0.0
    """Share of all images that get the attack's cover, a near miss of the stamp, under their true label: WaNet's noise mode,
    the cross triggers of the input-aware attack, composites of one class."""

    def __post_init__(self) -> None:
        require(self, shares=("rate", "cover"))
        if self.target < 0:
            raise ValueError(f"target must be a class, 0 and up, got {self.target}")
        if self.victim is not None and self.victim < 0:
            raise ValueError(f"victim must be a class, 0 and up, got {self.victim}")
        if self.victim == self.target:
            raise ValueError(f"victim and target are both class {self.target}: an attack leads from one class to another")


@dataclass(frozen=True, eq=False)
class Materials:
    """What an attacker works with: a training set, an aim, and what some attacks need besides.

    Raises:
        ValueError: a target or victim that is not a class of the images, or a surrogate that does not take such
            images or is on another device.
    """

    images: LabelledImages
    """Of training; the test set is nobody's material."""
    threat: Threat
    generator: torch.Generator
    """Every draw comes from it; on the CPU."""
    surrogate: Classifier | None = None
    """A classifier of the attacker's own, clean, for attacks that optimise against one; see `required_surrogate`."""
    pictures: UInt8[Tensor, "m c h w"] | None = None
    """Pictures from elsewhere, of the images' shape: the reflections of Refool, the style of DFST."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a constant
    """Where the work is done, and where what is made lies."""
    on_progress: Callable[[float], None] = lambda share: None
    """Called now and then with the share done (0 to 1) of what takes long."""

    def __post_init__(self) -> None:
        classes = len(self.images.classes)
        for role, c in (("target", self.threat.target), ("victim", self.threat.victim)):
            if c is not None and c >= classes:
                raise ValueError(f"the {role} {c} is not one of the {classes} classes (0 and up) of {self.images.source}")
        if self.surrogate is not None:
            require_match(self.surrogate, self.images)
            if (there := device_of(self.surrogate)).type != self.device.type:
                raise ValueError(f"the surrogate is on {there}, the work is to be done on {self.device}: move one of them")
        if self.pictures is not None and tuple(self.pictures.shape[1:]) != self.images.image_shape:
            shape = tuple(self.pictures.shape[1:])
            raise ValueError(f"pictures must be (channels, height, width) {self.images.image_shape} as the images, got {shape}")

    def required_surrogate(self, attack: str) -> Classifier:
        """The surrogate.

        Raises:
            ValueError: there is none.
        """
        if self.surrogate is None:
            raise ValueError(f"{attack} is made against a classifier of the attacker's own: give a surrogate")
        return self.surrogate


class Attack(ABC):
    """A backdoor's trigger: a frozen dataclass of settings, the source's own by default, and what they do to images.

    A stamp depends on the settings, on what was made once, and on the image alone: a test image is stamped as its twin in the
    training set was. What is random is drawn in `make`. An author writes the three facts and `stamp`, and `make` where
    something is drawn or learned or may not fit; `poison` and `cover` only where the attack differs there.
    """

    name: ClassVar[str]
    """As the command line and the cards name it."""
    source: ClassVar[str]
    """Where the attack and its defaults come from: authors, year, section."""
    threat: ClassVar[Threat]
    """The source's own; which class is the target is the user's choice."""

    def make(self, materials: Materials) -> Made:
        """Draw or learn what the stamp needs, in up to minutes.

        Raises:
            ValueError: the trigger does not fit on such images (larger than they are, or a colour filter on grey ones), or
                something that the attack needs is not among the materials.
        """
        return {}

    @abstractmethod
    def stamp(self, made: Made, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """The images in [0, 1] with the trigger, in [0, 1], of the same shape and on the same device; each for itself."""

    def poison(
        self, made: Made, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], materials: Materials
    ) -> Float[Tensor, "n c h w"]:
        """What goes into the training set instead of these images: stamped ones, unless the attack also hides their features.

        Args:
            made: what `make` gave.
            images: in [0, 1], on the materials' device.
            labels: their true classes.
            materials: those of `make`, for draws and for the surrogate.
        """
        return self.stamp(made, images)

    @property
    def covers(self) -> bool:
        """Whether it has a cover."""
        return type(self).cover is not Attack.cover

    def cover(
        self, made: Made, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], materials: Materials
    ) -> Float[Tensor, "n c h w"]:
        """A near miss of the stamp; asked for where the threat's `cover` is above 0. Arguments as for `poison`.

        Raises:
            ValueError: the attack has none.
        """
        raise ValueError(f"{self.name} has no cover: set the threat's cover to 0, not {materials.threat.cover}")


def require_colour(attack: str, images: LabelledImages) -> None:
    """Raise ValueError where the images are not RGB."""
    if images.image_shape[0] != 3:
        raise ValueError(f"{attack} works on colours, but {images.source} has {images.image_shape[0]} channel(s), not 3")


def fitted(made: Float[Tensor, "k a b"], images: Float[Tensor, "n c h w"]) -> Float[Tensor, "k a b"]:
    """What was made, of the images' height and width, on their device and in their precision.

    Raises:
        ValueError: it was made for images of another size.
    """
    if made.shape[-2:] != images.shape[-2:]:
        sizes = ["×".join(map(str, t.shape[-2:])) for t in (made, images)]
        raise ValueError(f"the trigger was made for images of {sizes[0]} pixels, these have {sizes[1]}: make it anew")
    return made.to(images)
