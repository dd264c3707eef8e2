"""What a trigger family has to offer; everything else about it, inversion and judging do for it."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Trigger: TypeAlias = dict[str, Tensor]
"""Named tensors whose first dimension counts triggers."""


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

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """What sizes on such images are measured against: a search weighs its size by the inverse at the start."""
        ...

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """What a trigger (1, ...) for these samples in [0, 1] has to know of them; it is carried along and never searched."""
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

    def stamp(self, trigger: Trigger, images: Float[Tensor, "n b c h w"]) -> Float[Tensor, "n b c h w"]:
        """Each trigger on its own b images in [0, 1]; the result is in [0, 1] too."""
        ...

    def size(self, trigger: Trigger) -> Float[Tensor, " n"]:
        """The size of each trigger in the family's unit, differentiably."""
        ...

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """The triggers with `share` of their size: where a warm search begins when the old trigger has become too large."""
        ...

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Triggers moved by noise of U(-amount, amount), one generator per trigger."""
        ...
