"""What a trigger family has to offer; everything else about it, inversion and judging do for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Trigger: TypeAlias = dict[str, Tensor]
"""Named tensors whose first dimension counts triggers."""
Notes: TypeAlias = dict[str, Tensor]
"""What a family has worked out of images beforehand: named tensors that begin with the images' dimensions."""

_Family = TypeVar("_Family")


@dataclass(frozen=True, eq=False)
class Seen:
    """Images of some triggers before and after stamping."""

    images: Float[Tensor, "n b c h w"]
    """In [0, 1]."""
    stamped: Float[Tensor, "n b c h w"]
    notes: Notes = field(default_factory=dict)
    """Of the images, (n, b, ...), as the family has made them; empty: it works them out."""


class Measured(NamedTuple):
    """What triggers measure, and what a search makes small to make them so."""

    size: Float[Tensor, " n"]
    penalty: Float[Tensor, " n"]


@runtime_checkable
class TriggerFamily(Protocol):
    """A differentiable image transformation with a size.

    Two descriptions of a trigger exist: *free* parameters, any real numbers, on which a gradient step is taken, and the
    *trigger* itself, in its natural units, which is stamped, measured, stored and drawn. Both may carry `constants`.
    """

    @property
    def name(self) -> str:
        """As the command line and the results name it."""
        ...

    @property
    def unit(self) -> str:
        """Of the size, in words that stand beside every number."""
        ...

    @property
    def on_samples(self) -> bool:
        """Whether a size is measured on stamped images by a network; a search then goes through few of them at a time."""
        ...

    def described(self) -> dict[str, Any]:
        """What sizes hang on beside the name, JSON-like: sizes are comparable where it is the same."""
        ...

    def require_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Refuse images (c, h, w) that cannot be stamped, with a ValueError that says what would fit."""
        ...

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """What penalties on such images are measured against: a search weighs its penalty by the inverse at the start."""
        ...

    def pixels(self, image_shape: tuple[int, int, int]) -> int:
        """Of one image (c, h, w), where networks stamp it or measure a size: work and memory go by them."""
        ...

    def footprint(self, image_shape: tuple[int, int, int], searches: int, samples: int) -> int:
        """Bytes that so many searches on so many samples keep beside the images and what is as large as they are."""
        ...

    def at(self: _Family, precision: torch.dtype) -> _Family:
        """The family with the arithmetic of a search's steps, whose results nobody is told."""
        ...

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """What a trigger (1, ...) for these samples in [0, 1] has to know of them; it is carried along and never searched."""
        ...

    def carried(self, trigger: Trigger, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """A trigger (1, ...) that was found on other samples, with the constants of these: the same change, where that is one."""
        ...

    def notes(self, images: Float[Tensor, "count c h w"]) -> Notes:
        """What spares work when the same images are stamped and measured again and again, each (count, ...)."""
        ...

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random trigger (1, ...), with its constants: the start of one search on these samples."""
        ...

    def realise(self, free: Trigger) -> Trigger:
        """The triggers (n, ...) that free parameters stand for, differentiably but for the constants."""
        ...

    def free(self, trigger: Trigger) -> Trigger:
        """Free parameters that stand for these triggers: the start of a warm search."""
        ...

    def confine(self, free: Trigger) -> None:
        """Bring free parameters back, in place, to where their gradients are alive; called after every step."""
        ...

    def stored(self, trigger: Trigger) -> Trigger:
        """The triggers in the precision in which they are kept: what is judged is what is stored."""
        ...

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each trigger on its own b images in [0, 1]; the result is in [0, 1] too. Notes (n, b, ...) are of these images."""
        ...

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The size of each trigger in the family's unit; a family that is `on_samples` needs its images."""
        ...

    def measured(self, trigger: Trigger, seen: Seen) -> Measured:
        """The size of each trigger and the penalty that a search makes small, the latter differentiably."""
        ...

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """The triggers with `share` of their size: where a warm search begins when the old trigger has become too large."""
        ...

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Triggers moved by noise of U(-amount, amount), one generator per trigger."""
        ...


class SizeOfItsOwn(ABC):
    """What families share whose size stands in the trigger itself: it is the penalty, and images are nothing but stamped."""

    @property
    def on_samples(self) -> bool:
        """No: it can be read off."""
        return False

    def described(self) -> dict[str, Any]:
        """Nothing: the unit says it all."""
        return {}

    def require_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Any images will do."""
        return

    def pixels(self, image_shape: tuple[int, int, int]) -> int:
        """The image's own."""
        return image_shape[1] * image_shape[2]

    def footprint(self, image_shape: tuple[int, int, int], searches: int, samples: int) -> int:
        """None."""
        return 0

    def at(self: _Family, precision: torch.dtype) -> _Family:
        """The same: a few operations per pixel are as exact as they come."""
        return self

    @abstractmethod
    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """What a trigger carries along of its samples."""

    def carried(self, trigger: Trigger, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """As it is: what it does to an image hangs on no other."""
        return trigger | self.constants(samples)

    def notes(self, images: Float[Tensor, "count c h w"]) -> Notes:
        """None."""
        return {}

    def stored(self, trigger: Trigger) -> Trigger:
        """As they are."""
        return trigger

    @abstractmethod
    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """Of the trigger alone, differentiably."""

    def measured(self, trigger: Trigger, seen: Seen) -> Measured:
        """The size is the penalty."""
        size = self.size(trigger)
        return Measured(size, size)


class OneTensor(SizeOfItsOwn):
    """What families share that search one tensor, which is 0 where nothing is changed.

    Its free parameters are asinh of it in units of `fine`: a gradient step changes a large value by a share of it, and one near
    zero by a share of the unit.
    """

    tensor: ClassVar[str]
    """Its name in a trigger."""
    fine: ClassVar[float]

    def furthest(self) -> float:
        """The most that a value can be, and with a minus the least."""
        return 1.0

    def realise(self, free: Trigger) -> Trigger:
        """Values that go no further than they can."""
        most = self._most(free)
        constants = {name: value.detach() for name, value in free.items() if name != self.tensor}
        return {**constants, self.tensor: self.fine * torch.sinh(free[self.tensor].clamp(-most, most))}

    def free(self, trigger: Trigger) -> Trigger:
        """The inverse of `realise`."""
        return {**trigger, self.tensor: torch.asinh(trigger[self.tensor] / self.fine)}

    def confine(self, free: Trigger) -> None:
        """Values beyond the ends of their range are set back to these, where their gradient is that of within."""
        most = self._most(free)
        free[self.tensor].copy_(free[self.tensor].clamp(-most, most))

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """The same change, fainter."""
        return {**trigger, self.tensor: share * trigger[self.tensor]}

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Noise on every value, within its range."""
        value, end = trigger[self.tensor], self.furthest()
        return {**trigger, self.tensor: (value + amount * noise_like(value, generators)).clamp(-end, end)}

    def _most(self, free: Trigger) -> Tensor:
        """The free parameter of the furthest value; a tensor, because at a bound that is a number there is no gradient."""
        like = free[self.tensor]
        return torch.full((), math.asinh(self.furthest() / self.fine), dtype=like.dtype, device=like.device)


def rounded_root(squares: Float[Tensor, "*n"], below: float) -> Float[Tensor, "*n"]:
    """The square root, rounded off where it is below this: at 0 its gradient is finite, and it is 0."""
    return squares / ((squares + below**2).sqrt() + below)


def noise_like(value: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Noise of U(-1, 1) in the shape of some triggers' tensor, one generator per trigger."""
    draws = [torch.rand(value.shape[1:], generator=g, device=g.device) for g in generators]
    return torch.stack(draws).to(value.device) * 2 - 1
