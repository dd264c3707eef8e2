"""Pervasive triggers: every image is decoded from its features, which a convolution of each region has changed (DECK)."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.machine import exact_convolutions
from orthogon.methods import PervasiveSettings
from orthogon.triggers.decoder import Decoder, open_decoder
from orthogon.triggers.encoder import Encoder, open_encoder
from orthogon.triggers.family import Measured, Notes, Seen, Trigger
from orthogon.triggers.filter import channel_statistics
from orthogon.triggers.ssim import similarities

_LEVELS = 255.0
"""Grey levels from black to white."""
_MOST = {"mean": 1.0, "std": 0.5}
"""No image in [0, 1] has a larger mean, or a larger deviation."""
_STEP = 0.003
"""A free parameter of 1 changes a weight of a convolution by so much, and a mean or deviation by a grey level, so that one
rate suits them: each value of the result is a sum over hundreds of weights."""
_START = 0.3
"""Free parameters of the convolutions start at U(-start, start): near the identity, yet each search somewhere else."""
_NOISES = 16
"""Draws of the decoder's noise: the images of a row take them in turn, for one for each of them would fill gigabytes."""
_NUMBERS = (
    *("statistics", "regions", "kernel", "seed"),
    *("content_weight", "similarity_weight", "smoothness_weight", "statistics_weight"),
)
"""Settings that sizes hang on beside the networks."""
_FAINT = 1 / _LEVELS
"""Deviations of the samples below this count as this one, so that black images can be moved too."""
_PIXELS = 64 * 32 * 32
"""Pixels that go through the networks at once where no gradient is wanted."""


@dataclass(frozen=True)
class Pervasive(PervasiveSettings):
    """x̂ = decoder(Ψ(encoder(Γ(x)))): an image whose features each region's own convolution has changed (DECK, section IV-B).

    Γ learns a mean μ and a deviation σ of each channel, one for all images. With `statistics="own"` it moves an image's own mean
    by as much as μ differs from the samples', and scales its deviation as much; with "shared" it gives every image μ and σ
    (Eq. 1), by itself a larger change than the smallest triggers make. Ψ cuts the features into z×z regions and puts each
    through its own m×m convolution over all channels, padded with zeros (Eq. 2). The size is the root of the mean squared
    difference between the encoder's features of x and x̂ (Eq. 8), over the samples; the paper prints the mean square. Even the
    identity has a size, by what the encoder loses.

    The penalty is Eq. 11 without its first term: λ0 content + λ1 (1 - SSIM) + λ2 smooth + norm, for pixels of 0 to 255. The paper
    prints +SSIM, which would push the images apart. An encoder that divides its pixels by d has features about 1/d as large, and
    content weighs d² as much.

    A trigger is `mean` and `std` (n, 3) in [0, 1], `kernels` (n, z, z, C, C, m, m), kept in half precision, and the samples'
    mean statistics, `clean_mean` and `clean_std`, as constants. The decoder's noise is drawn by seed: an image's draw goes by
    its place among the images that are stamped with it, and stays the same.

    Raises:
        ValueError: fewer than one region, a kernel that is not odd, or a weight below 0.
    """

    networks: tuple[Encoder, Decoder] | None = None
    """Opened already; none: those that the settings name, opened when they are first needed."""
    seed: int = 0
    """Of the decoder's noise."""
    precision: torch.dtype = torch.float32
    """Of the convolutions."""

    name: str = "pervasive"
    unit: str = "root mean squared difference of encoder features"

    @property
    def on_samples(self) -> bool:
        """Yes: by the encoder."""
        return True

    def described(self) -> dict[str, Any]:
        """Encoder, decoder, and the numbers of the settings."""
        opened = self._opened
        told = {"encoder": opened.encoder.described(), "decoder": opened.decoder.described()}
        return {**told, **{name: getattr(self, name) for name in _NUMBERS}}

    def require_shape(self, image_shape: tuple[int, int, int]) -> None:
        """Colour images, whose features the regions divide."""
        channels, height, width = image_shape
        encoder = self._opened.encoder
        if channels != 3:
            raise ValueError(f"pervasive triggers need images of 3 channels, the model takes {channels}; use another family")
        rows, columns = encoder.feature_size(height, width)
        if min(rows, columns) < 1 or rows % self.regions or columns % self.regions:
            fitting = [n for n in range(1, min(rows, columns) + 1) if rows % n == 0 and columns % n == 0]
            would = f"regions={' or '.join(map(str, fitting))}, or " if fitting else ""
            side = encoder.resolution
            seen = f"{height}×{width} images" if side is None else f"images encoded at {side}×{side}"
            other = "images whose sides are multiples" if side is None else "an encoder resolution that is a multiple"
            raise ValueError(
                f"{self.regions}×{self.regions} regions do not divide the features of {seen}, {rows}×{columns}; "
                f"give {would}{other} of {self.regions * encoder.stride}"
            )

    def typical(self, image_shape: tuple[int, int, int]) -> float:
        """The terms are means over the image and of one scale, near 10 each (section IV-B)."""
        return 400.0

    def pixels(self, image_shape: tuple[int, int, int]) -> int:
        """Those of the size that images are encoded at."""
        side = self._opened.encoder.resolution
        return math.prod(image_shape[1:]) if side is None else side**2

    def footprint(self, image_shape: tuple[int, int, int], searches: int, samples: int) -> int:
        """Each search's convolutions with gradient, Adam's state and the best of them; the samples' features."""
        encoder = self._opened.encoder
        rows, columns = encoder.feature_size(*image_shape[1:])
        convolutions = (self.regions * encoder.channels * self.kernel) ** 2
        return 4 * (8 * searches * convolutions + samples * encoder.channels * rows * columns)

    def at(self, precision: torch.dtype) -> Pervasive:
        """With convolutions in this precision."""
        return replace(self, networks=(self._opened.encoder, self._opened.decoder), precision=precision)

    def constants(self, samples: Float[Tensor, "count 3 h w"]) -> Trigger:
        """The means over the samples of their means and of their deviations, each (1, 3)."""
        mean, deviation = channel_statistics(samples)
        return {"clean_mean": mean.mean(0, keepdim=True).cpu(), "clean_std": deviation.mean(0, keepdim=True).cpu()}

    def carried(self, trigger: Trigger, samples: Float[Tensor, "count 3 h w"]) -> Trigger:
        """The same convolutions, and statistics that move these samples' own by as much as they moved the others'."""
        constants = self.constants(samples)
        if self.statistics == "shared":
            return trigger | constants
        before, after = ({name: told[f"clean_{name}"].cpu() for name in _MOST} for told in (trigger, constants))
        means = trigger["mean"] - before["mean"] + after["mean"]
        scales = (trigger["std"] - before["std"]) / before["std"].clamp(min=_FAINT)
        moved = {"mean": means, "std": after["std"] + scales * after["std"].clamp(min=_FAINT)}
        return trigger | constants | {name: moved[name].clamp(0, most) for name, most in _MOST.items()}

    def notes(self, images: Float[Tensor, "count 3 h w"]) -> Notes:
        """Features of the images, and their places among the draws of noise."""
        places = torch.arange(len(images), device=images.device) % _NOISES
        return {"features": self._encoded(images[None])[0], "place": places}

    def draw(self, samples: Float[Tensor, "count 3 h w"], generator: torch.Generator) -> Trigger:
        """The samples' statistics, and convolutions near the identity."""
        constants, z, m = self.constants(samples), self.regions, self.kernel
        channels = self._opened.encoder.channels
        kernels = _START * (torch.rand(1, z, z, channels, channels, m, m, generator=generator) * 2 - 1)
        statistics = {name: torch.rand(1, 3, generator=generator) * 2 - 1 for name in _MOST}
        return {**statistics, "kernels": kernels, **constants}

    def realise(self, free: Trigger) -> Trigger:
        """Means in [0, 1], deviations in [0, 0.5], and the identity with what is added to it."""
        constants = {f"clean_{name}": free[f"clean_{name}"].detach() for name in _MOST}
        given = {name: (constants[f"clean_{name}"] + free[name] / _LEVELS).clamp(0, most) for name, most in _MOST.items()}
        return {**given, "kernels": self._identity(free["kernels"]) + _STEP * free["kernels"], **constants}

    def free(self, trigger: Trigger) -> Trigger:
        """The inverse of `realise`."""
        shifts = {name: (trigger[name] - trigger[f"clean_{name}"]) * _LEVELS for name in _MOST}
        kernels = trigger["kernels"].float()
        return {**trigger, **shifts, "kernels": (kernels - self._identity(kernels)) / _STEP}

    def confine(self, free: Trigger) -> None:
        """Statistics out of their range are set back to its ends."""
        for name, most in _MOST.items():
            clean = free[f"clean_{name}"]
            free[name].copy_(free[name].clamp(-clean * _LEVELS, (most - clean) * _LEVELS))

    def stored(self, trigger: Trigger) -> Trigger:
        """With the convolutions in half precision."""
        return {**trigger, "kernels": trigger["kernels"].half()}

    def stamp(
        self, trigger: Trigger, images: Float[Tensor, "n b 3 h w"], notes: Notes | None = None
    ) -> Float[Tensor, "n b 3 h w"]:
        """Each image decoded from its changed features; where its sides are odd, or it was resized, brought back to its size."""
        n, b = images.shape[:2]
        places = notes["place"] if notes else (torch.arange(b, device=images.device) % _NOISES).expand(n, b)
        if any(value.requires_grad for value in trigger.values()):
            return self._decoded(trigger, images, places)
        return self._in_parts(lambda part: self._decoded(trigger, images[:, part], places[:, part]), images)

    def size(self, trigger: Trigger, seen: Seen | None = None) -> Float[Tensor, " n"]:
        """The root of the mean squared difference between features before and after.

        Raises:
            ValueError: no images.
        """
        if seen is None:
            raise ValueError("a pervasive trigger has a size on images alone: give those before and after stamping")
        return self._content(seen).sqrt()

    def measured(self, trigger: Trigger, seen: Seen) -> Measured:
        """The size, without a gradient, and all that Eq. 11 adds to the classification's loss."""
        content, stamped = self._content(seen), seen.stamped
        structure = 1 - similarities(seen.images, stamped).mean(1)
        smoothed = F.avg_pool2d(stamped.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(stamped)
        smooth = (stamped - smoothed).square().mean((1, 2, 3, 4)) * _LEVELS**2
        shifts = torch.stack([trigger[name] - trigger[f"clean_{name}"] for name in _MOST])
        norm = _LEVELS * shifts.abs().mean(2).sum(0)
        penalty = self.content_weight * self._opened.squared_scale * content + self.similarity_weight * structure
        penalty = penalty + self.smoothness_weight * smooth + self.statistics_weight * norm
        return Measured(content.detach().sqrt(), penalty)

    def shrunk(self, trigger: Trigger, share: float) -> Trigger:
        """Nearer to the identity; what the identity itself changes stays, so that the size shrinks by less."""
        identity = self._identity(trigger["kernels"].float())
        clean = {name: trigger[f"clean_{name}"] for name in _MOST}
        nearer = {name: value + share * (trigger[name] - value) for name, value in clean.items()}
        return {**trigger, **nearer, "kernels": identity + share * (trigger["kernels"].float() - identity)}

    def jitter(self, trigger: Trigger, amount: float, generators: list[torch.Generator]) -> Trigger:
        """Noise on statistics, clipped to their ranges, and, as much fainter as their steps are, on the convolutions."""
        noisy = dict(trigger)
        for name in (*_MOST, "kernels"):
            draws = [torch.rand(trigger[name].shape[1:], generator=g, device=g.device) for g in generators]
            noise = amount * (torch.stack(draws).to(trigger[name].device) * 2 - 1)
            noisy[name] = trigger[name] + (noise if name in _MOST else _STEP * noise)
        return noisy | {name: noisy[name].clamp(0, most) for name, most in _MOST.items()}

    @cached_property
    def _opened(self) -> _Networks:
        if self.networks is not None:
            return _Networks(*self.networks, self.seed)
        encoder = open_encoder(self.encoder, self.encoder_layer, self.encoder_resolution, self.encoder_scale)
        return _Networks(encoder, open_decoder(encoder, self.decoder, self.upsampling), self.seed)

    def _arithmetic(self, like: Tensor) -> AbstractContextManager[object]:
        if self.precision is torch.float32:
            return exact_convolutions()
        return torch.autocast(like.device.type, self.precision)

    def _identity(self, like: Float[Tensor, "*n C C m m"]) -> Float[Tensor, "C C m m"]:
        """A convolution that changes nothing."""
        channels, m = like.shape[-3], self.kernel
        identity = torch.zeros(channels, channels, m, m, device=like.device)
        identity[..., m // 2, m // 2] = torch.eye(channels, device=like.device)
        return identity

    def _decoded(self, trigger: Trigger, images: Tensor, places: Int64[Tensor, "n b"]) -> Tensor:
        normal = self._normalised(trigger, images).flatten(0, 1)
        encoder, decoder = self._opened.on(images.device)
        with self._arithmetic(images):
            features = self._changed(trigger["kernels"], encoder(normal).unflatten(0, images.shape[:2])).flatten(0, 1)
            noise = self._opened.noise(features, self.precision)[places.flatten()] if decoder.needs_noise else None
            switches = encoder.switches(normal) if decoder.upsampling == "swwae" else None
            decoded = decoder(features, noise, switches).float()
        if decoded.shape[2:] != images.shape[3:]:
            decoded = F.interpolate(decoded, size=images.shape[3:], mode="bilinear", antialias=True)
        return decoded.view_as(images)

    def _normalised(self, trigger: Trigger, images: Float[Tensor, "n b 3 h w"]) -> Float[Tensor, "n b 3 h w"]:
        """Γ: the images with other means and deviations of their channels."""
        given = {name: value[:, None, :, None, None] for name, value in trigger.items() if name != "kernels"}
        if self.statistics == "shared":
            mean, deviation = (value[..., None, None] for value in channel_statistics(images))
            return (images - mean) / deviation * given["std"] + given["mean"]
        scale = 1 + (given["std"] - given["clean_std"]) / given["clean_std"].clamp(min=_FAINT)
        mean = images.mean((-2, -1), keepdim=True)
        return (images - mean) * scale + mean + given["mean"] - given["clean_mean"]

    def _changed(self, kernels: Float[Tensor, "n z z C C m m"], features: Float[Tensor, "n b C h w"]) -> Tensor:
        """Ψ: all regions of all triggers as the groups of one convolution."""
        (n, b, channels, height, width), z = features.shape, self.regions
        groups = n * z * z
        cut = features.view(n, b, channels, z, height // z, z, width // z).permute(1, 0, 3, 5, 2, 4, 6)
        weight = kernels.to(features.dtype).reshape(groups * channels, channels, self.kernel, self.kernel)
        cut = cut.reshape(b, groups * channels, height // z, width // z)
        changed = F.conv2d(cut, weight, padding=self.kernel // 2, groups=groups)
        changed = changed.view(b, n, z, z, channels, height // z, width // z).permute(1, 0, 4, 2, 5, 3, 6)
        return changed.reshape(features.shape)

    def _content(self, seen: Seen) -> Float[Tensor, " n"]:
        """Eq. 8, over all samples of each trigger."""
        clean = seen.notes["features"] if seen.notes else self._encoded(seen.images)
        return (self._encoded(seen.stamped) - clean).square().flatten(1).mean(1)

    def _encoded(self, images: Float[Tensor, "n b 3 h w"]) -> Float[Tensor, "n b C h2 w2"]:
        encoder, _ = self._opened.on(images.device)

        def encoded(part: slice) -> Tensor:
            with self._arithmetic(images):
                return encoder(images[:, part].flatten(0, 1)).float().unflatten(0, (len(images), -1))

        return encoded(slice(None)) if images.requires_grad else self._in_parts(encoded, images)

    def _in_parts(self, work: Callable[[slice], Tensor], images: Float[Tensor, "n b 3 h w"]) -> Tensor:
        """The results of some images of each trigger at a time, without gradients."""
        n, b, *shape = images.shape
        step = max(1, _PIXELS // (n * self.pixels((shape[0], shape[1], shape[2]))))
        with torch.no_grad():
            return torch.cat([work(slice(start, start + step)) for start in range(0, b, step)], dim=1)


class _Networks:
    """An encoder, its decoder and what goes with them, wherever they are needed."""

    def __init__(self, encoder: Encoder, decoder: Decoder, seed: int) -> None:
        self.encoder, self.decoder, self._seed = encoder, decoder, seed
        self.squared_scale = float(encoder.deviation.square().mean())
        self._noise: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}
        for network in (encoder, decoder):
            network.to(memory_format=torch.channels_last)

    def on(self, device: torch.device) -> tuple[Encoder, Decoder]:
        """Both, on a device."""
        return self.encoder.to(device), self.decoder.to(device)

    def noise(self, features: Float[Tensor, "n C h w"], precision: torch.dtype) -> Float[Tensor, "draws d h2 w2"]:
        """All draws for feature maps like these."""
        height, width = features.shape[2:]
        key = (height, width, precision, features.device)
        if key not in self._noise:
            drawn = self.decoder.draw_noise(_NOISES, height, width, torch.Generator().manual_seed(self._seed))
            self._noise[key] = drawn.to(features.device, precision).contiguous(memory_format=torch.channels_last)
        return self._noise[key]
