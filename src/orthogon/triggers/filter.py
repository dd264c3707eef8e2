"""Filter triggers: every image is given the same colour statistics (MOTH, appendix X-G)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from orthogon.triggers.family import Notes, Seen, SizeOfItsOwn, Trigger, noise_like

_LEVELS = 255.0
"""Grey levels from black to white."""
_MOST = {"mean": 1.0, "std": 0.5}
"""No image in [0, 1] has a larger mean, or a larger deviation."""
_FINE = 8 / 255
"""Smaller shifts move by a share of this in a gradient step, larger ones by a share of their own."""
_FAINT = 1e-4
"""Deviations below this count as this one, so that a constant image has a quotient; a single pixel of 32×32 that is one
level off makes more."""


@dataclass(frozen=True)
class Filter(SizeOfItsOwn):
    """x' = (x - μ_x) / σ_x · σ + μ per channel, clamped to [0, 1]: every image is given the mean μ and the deviation σ.

    μ_x and σ_x are the image's own. The size is the sum over the channels of |μ - mean(μ_x)| + |σ - mean(σ_x)|, the means
    over the victim's samples, in grey levels. A filter of size 0 is not nothing: it still makes all images alike in both.

    A trigger is `mean` and `std` (n, c) in [0, 1], with the samples' mean statistics, `clean_mean` and `clean_std`, as
    constants. Its free parameters are asinh of the shifts in units of 8 grey levels: a gradient step changes a large shift by
    a share of it, and one near zero by a fraction of a level, so that a statistic that needs no shift comes to rest.
    """

    start: float = 3.2
    """Free parameters start at U(-start, start): shifts of up to 98 grey levels, 28 on average. From nearer, many searches end
    in the first valley that they meet."""

    name: str = "filter"
    unit: str = "mean and deviation shift in grey levels of 255, summed over channels"

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """A shift of one statistic per channel through the whole range."""
        return _LEVELS * image_shape[0]

    def constants(self, samples: Float[Tensor, "count c h w"]) -> Trigger:
        """The means over the samples of their means and of their deviations, each (1, c)."""
        mean, deviation = channel_statistics(samples)
        return {"clean_mean": mean.mean(0, keepdim=True).cpu(), "clean_std": deviation.mean(0, keepdim=True).cpu()}

    def draw(self, samples: Float[Tensor, "count c h w"], generator: torch.Generator) -> Trigger:
        """Free parameters of one random filter, around the samples' statistics."""
        constants = self.constants(samples)
        shape = constants["clean_mean"].shape
        free = {name: self.start * (torch.rand(shape, generator=generator) * 2 - 1) for name in _MOST} | constants
        self.confine(free)
        return free

    def realise(self, free: Trigger) -> Trigger:
        """Means in [0, 1] and deviations in [0, 0.5], but for rounding."""
        constants = {f"clean_{name}": free[f"clean_{name}"].detach() for name in _MOST}
        within = {name: free[name].clamp(*_reach(free, name)) for name in _MOST}
        return {name: constants[f"clean_{name}"] + _FINE * torch.sinh(z) for name, z in within.items()} | constants

    def free(self, trigger: Trigger) -> Trigger:
        """The inverse of `realise`."""
        shifts = {name: trigger[name] - trigger[f"clean_{name}"] for name in _MOST}
        return {**trigger, **{name: torch.asinh(shift / _FINE) for name, shift in shifts.items()}}

    def confine(self, free: Trigger) -> None:
        """Shifts out of the range are set back to its ends, where their gradient is that of within."""
        for name in _MOST:
            free[name].copy_(free[name].clamp(*_reach(free, name)))

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b c h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b c h w"]:
        """Each mean and deviation on its own images.

        A clamped pixel has no gradient, for moving it changes nothing. The search does not die of it: the quotients of an
        image have both signs around a mean of 0, and those that point from μ into the range are inside for two deviations.
        """
        mean, deviation = channel_statistics(images)
        quotient = (images - mean[..., None, None]) / deviation[..., None, None]
        given = {name: trigger[name][:, None, :, None, None] for name in _MOST}
        return (quotient * given["std"] + given["mean"]).clamp(0, 1)

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The shifts of both statistics, summed over the channels; their gradient is 0 where there is no shift."""
        shifts = torch.stack([trigger[name] - trigger[f"clean_{name}"] for name in _MOST])
        return _LEVELS * shifts.abs().sum((0, 2))

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """Mean and deviation nearer to the samples' own."""
        clean = {name: trigger[f"clean_{name}"] for name in _MOST}
        return {**trigger, **{name: value + share * (trigger[name] - value) for name, value in clean.items()}}

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Noise on means and deviations, clipped to their ranges."""
        noisy = dict(trigger)
        for name, most in _MOST.items():
            noisy[name] = (trigger[name] + amount * noise_like(trigger[name], generators)).clamp(0, most)
        return noisy


def channel_statistics(images: Float[Tensor, "*n h w"]) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Mean and deviation of each channel; a deviation that is too faint has no gradient."""
    variance, mean = torch.var_mean(images, dim=(-2, -1), correction=0)
    return mean, variance.clamp(min=_FAINT**2).sqrt()


def _reach(free: Trigger, name: str) -> tuple[Tensor, Tensor]:
    """The free parameters of the least and of the most that a statistic can be."""
    clean = free[f"clean_{name}"].detach()
    return torch.asinh(-clean / _FINE), torch.asinh((_MOST[name] - clean) / _FINE)
