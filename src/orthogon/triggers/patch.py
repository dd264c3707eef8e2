"""Patch triggers: a mask says where, a pattern says what (MOTH, Eq. 1-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.triggers.family import Notes, Seen, SizeOfItsOwn, Trigger, noise_like

_EDGE = 6.0
"""Free parameters stay within ±6: there a value is within 1e-5 of 0 or 1, and Adam still sees which way it is pulled."""


@dataclass(frozen=True)
class Patch(SizeOfItsOwn):
    """x' = (1 - m) x + m δ with one mask channel m and a pattern δ in [0, 1]; the size is 3 ‖m‖₁ for colour images.

    Free parameters z give a value tanh(z) / 2 + 1/2, as in the authors' release.
    """

    start: float = 0.3
    """Mean of the random mask at the start of a search; the mask is drawn from U(0, 2 start). 0.5: as in the release."""

    name: str = "patch"
    unit: str = "mask L1, summed over channels"

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """The number of pixels."""
        return float(image_shape[1] * image_shape[2])

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """None: a mask and a pattern mean the same on any image."""
        return {}

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random mask (1, 1, h, w) and pattern (1, c, h, w)."""
        channels, height, width = samples.shape[1:]
        mask = 2 * self.start * torch.rand(1, 1, height, width, generator=generator)
        pattern = torch.rand(1, channels, height, width, generator=generator)
        return self.free({"mask": mask, "pattern": pattern})

    def realise(self, free: Trigger) -> Trigger:
        """Mask and pattern in [0, 1]."""
        return {name: torch.tanh(value) / 2 + 0.5 for name, value in free.items()}

    def free(self, trigger: Trigger) -> Trigger:
        """The inverse of `realise`, with values of exactly 0 and 1 brought within reach."""
        return {name: torch.atanh((value * 2 - 1).clamp(-1 + 1e-5, 1 - 1e-5)) for name, value in trigger.items()}

    def confine(self, free: Trigger) -> None:
        """Values beyond ±6 are set back."""
        for value in free.values():
            value.clamp_(-_EDGE, _EDGE)

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each mask and pattern on its own images."""
        return _Stamp.apply(images, trigger["mask"], trigger["pattern"])

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """‖m‖₁ times the number of channels: the mask covers them all."""
        return trigger["pattern"].shape[1] * trigger["mask"].sum((1, 2, 3))

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """The same pattern under a fainter mask."""
        return {**trigger, "mask": trigger["mask"] * share}

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Noise on mask and pattern, clipped to [0, 1]."""
        return {name: (value + amount * noise_like(value, generators)).clamp(0, 1) for name, value in trigger.items()}


class _Stamp(torch.autograd.Function):
    """Stamping with its gradient written out: two sums over the images, instead of one image-sized tensor per term."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
        ctx.save_for_backward(images, mask, pattern)
        return torch.addcmul((mask * pattern).unsqueeze(1), images, (1 - mask).unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (gradient,) = gradients
        images, mask, pattern = ctx.saved_tensors
        total = gradient.sum(1)
        overlap = (gradient * images).sum((1, 2))[:, None]
        d_mask = (pattern * total).sum(1, keepdim=True) - overlap
        d_images = gradient * (1 - mask).unsqueeze(1) if ctx.needs_input_grad[0] else None
        return d_images, d_mask, mask * total
