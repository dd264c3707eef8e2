"""Decoders: from an encoder's features back to images, with an upsampling that breaks fixed correlations (DECK, section IV-A)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from orthogon import runs
from orthogon.triggers.encoder import WEIGHTS, Encoder

Upsampling = Literal["random", "zero", "nearest", "swwae"]
UPSAMPLINGS: tuple[str, ...] = get_args(Upsampling)
"""What fills a 2×2 block besides its value: draws from N(0, σ²) (DECK), zeros, the value itself, or zeros with the value where
the encoder's maximum stood (SWWAE)."""
FILE = "decoder.safetensors"
"""The decoder's name in a run folder."""


@dataclass(frozen=True)
class DecoderFacts:
    """What a decoder's file says of it beside its weights."""

    encoder: dict[str, Any]
    """Of the encoder that it fits, as `Encoder.described` tells it."""
    network_digest: str
    """Of that encoder: `Encoder.network_digest`."""
    widths: tuple[tuple[int, int], ...]
    """Of that encoder: channels of the two convolutions of each block."""
    upsampling: str
    """One of `UPSAMPLINGS`."""
    training: dict[str, Any]
    """How it was trained, and how well it reconstructs photographs that it was not trained on."""


class Decoder(nn.Module):
    """Per block of the encoder, from the last to the first, an upsampling by 2 and two transposed 3×3 convolutions.

    Values and noise are divided by the deviations `sigma` of the encoder's activations on their way in, one per channel, so that
    weights of order one suit every encoder. ReLU follows every convolution but the last, whose result is clamped to [0, 1].

    Args:
        widths: channels of the encoder's two convolutions, per block (`Encoder.widths`).
        upsampling: one of `UPSAMPLINGS`.
        sigma: per block (channels,) the standard deviations of the encoder's activations before that block's pooling.

    Raises:
        ValueError: an unknown upsampling, or deviations that do not fit the widths or are not above 0.
    """

    def __init__(self, widths: Sequence[Sequence[int]], upsampling: str, sigma: Sequence[Tensor]) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"a decoder's upsampling is one of {', '.join(UPSAMPLINGS)}, got {upsampling!r}")
        wanted = [(pair[1],) for pair in widths]
        if [tuple(s.shape) for s in sigma] != wanted or not all(bool((s > 0).all()) for s in sigma):
            raise ValueError(f"a decoder needs deviations above 0 of shapes {wanted}, got {[tuple(s.shape) for s in sigma]}")
        self.upsampling = upsampling
        self.widths = tuple((first, second) for first, second in widths)
        self.channels = self.widths[-1][1]
        self.stride = 2 ** len(self.widths)
        self.facts: DecoderFacts | None = None
        outputs = [3, *(second for _, second in self.widths[:-1])]
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(second, first, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(first, output, 3, padding=1)
            )
            for (first, second), output in zip(self.widths, outputs, strict=True)
        )
        for number, deviations in enumerate(sigma):
            self.register_buffer(f"sigma{number}", deviations.detach().float().clone())

    @property
    def sigma(self) -> list[Tensor]:
        """Per block the deviations (channels,) of the encoder's activations."""
        return [getattr(self, f"sigma{number}") for number in range(len(self.widths))]

    @property
    def needs_noise(self) -> bool:
        """Whether `forward` takes noise."""
        return self.upsampling == "random"

    def forward(
        self,
        features: Float[Tensor, "n c h w"],
        noise: Float[Tensor, "n d h2 w2"] | None = None,
        switches: Sequence[Tensor] | None = None,
    ) -> Float[Tensor, "n 3 H W"]:
        """Images in [0, 1], `stride` times as high and wide as the features, differentiably.

        Args:
            features: of the encoder, or transformed.
            noise: as `draw_noise` gives it, twice as high and wide as the features; for the random upsampling, else passed over.
            switches: as `Encoder.switches` gives them for the same images; for SWWAE, else passed over.

        Raises:
            ValueError: features of other channels; noise or switches that the upsampling needs are missing or of another shape.
        """
        return self.unclamped(features, noise, switches).clamp(0, 1)

    def unclamped(
        self, features: Float[Tensor, "n c h w"], noise: Tensor | None = None, switches: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "n 3 H W"]:
        """As `forward`, before the clamping: what a training looks at, since clamped pixels have no gradient."""
        if features.shape[1] != self.channels:
            raise ValueError(f"this decoder takes features of {self.channels} channels, got {tuple(features.shape)}")
        fills = self._fills(features, noise)
        if self.upsampling == "swwae" and (switches is None or len(switches) != len(self.blocks)):
            raise ValueError(f"SWWAE needs the encoder's {len(self.blocks)} switches of these images: Encoder.switches(images)")
        values = features
        for number in reversed(range(len(self.blocks))):
            if self.upsampling == "swwae" and switches is not None:
                values = F.max_unpool2d(values, switches[number], [2, 2])
            elif self.upsampling == "nearest":
                values = F.interpolate(values, scale_factor=2.0)
            else:
                values = placed(values, fills[number])
            values = self._convolved(number, values)
            if number:
                values = values.relu() * self.sigma[number - 1][:, None, None]
        return values + 0.5

    def _convolved(self, number: int, values: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """A block on values that are divided by their deviations: the first weights are, which are fewer."""
        first, *others = self.blocks[number].children()
        assert isinstance(first, nn.ConvTranspose2d)
        weight = first.weight / self.sigma[number][:, None, None, None]
        values = F.conv_transpose2d(values, weight, first.bias, padding=1)
        for layer in others:
            values = layer(values)
        return values

    def draw_noise(self, n: int, height: int, width: int, generator: torch.Generator) -> Float[Tensor, "n d h2 w2"]:
        """Noise for n feature maps of height × width, on the CPU: d channels of 2 height × 2 width.

        The first channels are N(0, σ²) of the last block, one per feature channel. For a decoder of two blocks the rest, folded
        2×2 into channels, is the noise of the first block.
        """
        drawn = torch.randn(n, self._noise_channels(), 2 * height, 2 * width, generator=generator)
        return drawn * torch.cat(self._noise_deviations()).cpu()[:, None, None]

    def digest(self) -> str:
        """SHA-256 over weights, deviations and upsampling."""
        state = hashlib.sha256(self.upsampling.encode())
        for name, tensor in sorted(self.state_dict().items()):
            state.update(f"{name} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().float().contiguous().numpy().data)
        return state.hexdigest()

    def described(self) -> dict[str, Any]:
        """What results say of the decoder, JSON-like."""
        return {"upsampling": self.upsampling, "digest": self.digest()}

    def _noise_deviations(self) -> list[Tensor]:
        """Per channel of the noise its deviation."""
        return [sigma.repeat_interleave(4**depth) for depth, sigma in enumerate(reversed(self.sigma))]

    def _noise_channels(self) -> int:
        return sum(len(deviations) for deviations in self._noise_deviations())

    def _fills(self, features: Tensor, noise: Tensor | None) -> Sequence[Tensor | None]:
        """Per block what fills its upsampled values; None: zeros."""
        if not self.needs_noise:
            return [None] * len(self.blocks)
        n, _, h, w = features.shape
        wanted = (n, self._noise_channels(), 2 * h, 2 * w)
        if noise is None or noise.shape != wanted:
            got = None if noise is None else tuple(noise.shape)
            raise ValueError(f"the random upsampling needs noise {wanted}, got {got}; Decoder.draw_noise draws it")
        parts = noise.split([len(deviations) for deviations in self._noise_deviations()], dim=1)
        return [F.pixel_shuffle(part, 2**depth) if depth else part for depth, part in enumerate(parts)][::-1]


def placed(values: Float[Tensor, "n c h w"], fill: Float[Tensor, "n c h2 w2"] | None) -> Float[Tensor, "n c h2 w2"]:
    """Each value in the top-left cell of its 2×2 block, and in the other three what `fill` has there (DECK, Figure 9).

    Args:
        values: to be upsampled.
        fill: twice as high and wide; what it has in the top-left cells is passed over. None: zeros.
    """
    n, c, h, w = values.shape
    result = values.new_zeros(n, c, 2 * h, 2 * w) if fill is None else fill.clone()
    result[:, :, ::2, ::2] = values
    return result


def open_decoder(encoder: Encoder, spec: str = "packaged", upsampling: str = "random") -> Decoder:
    """Open the decoder of an encoder, frozen and in evaluation mode.

    Args:
        encoder: whose features it shall decode.
        spec: "packaged"; a file or a run folder written by `orthogon train-decoder`; or a folder of such folders.
        upsampling: one of `UPSAMPLINGS`, which the decoder was trained with.

    Raises:
        ValueError: there is no such file, it is no decoder at all, or no decoder there, or more than one, fits the encoder and
            the upsampling.
    """
    paths = _decoders(spec)
    known = {path: _facts(path) for path in paths}
    digest = encoder.network_digest()
    fitting = [path for path, facts in known.items() if (facts.network_digest, facts.upsampling) == (digest, upsampling)]
    if len(fitting) == 1:
        return read_decoder(fitting[0])
    wanted = f"the features of {_told(encoder.described())} by {upsampling} upsampling"
    if fitting:
        raise ValueError(f"{len(fitting)} decoders in {spec} decode {wanted}: name one, {' or '.join(map(str, fitting))}")
    there = "; ".join(f"{path.parent.name}/{path.name}: {_told(f.encoder)}, {f.upsampling}" for path, f in known.items())
    raise ValueError(
        f"no decoder of {spec} decodes {wanted} (there is {there or 'none'}); train one on photographs with orthogon "
        f"train-decoder --encoder … --encoder-layer {encoder.layer} --upsampling {upsampling}, and give its folder as --decoder"
    )


def _decoders(spec: str) -> list[Path]:
    """The files that a user means."""
    if spec == "packaged":
        return sorted(WEIGHTS.glob("decoder-*.safetensors"))
    path = Path(spec).expanduser()
    if path.is_dir() and not (path / FILE).exists():
        return sorted(path.glob(f"*/{FILE}"))
    return [path / FILE if path.is_dir() else path]


def _told(encoder: Mapping[str, Any]) -> str:
    """An encoder by what a decoder has to fit."""
    return f"{encoder.get('name')} ({encoder.get('layer')}, pixels {encoder.get('scale')})"


def write_decoder(path: Path, decoder: Decoder, facts: DecoderFacts) -> None:
    """Write a decoder with what is to be known of it; the encoder's weights are no part of it.

    Raises:
        RunError: the folder is unwritable or full.
    """
    told = {field.name: getattr(facts, field.name) for field in fields(facts)}
    runs.write_tensors(path, decoder.state_dict(), {"decoder": json.dumps(told, allow_nan=False)})


def read_decoder(path: Path) -> Decoder:
    """The decoder of a file, frozen and in evaluation mode, with its `facts`.

    Raises:
        ValueError: no such file, or one that is no decoder.
    """
    facts = _facts(path)
    with safe_open(path, framework="pt") as file:
        tensors: Mapping[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    try:
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn and then replaced shall not be felt
            decoder = Decoder(facts.widths, facts.upsampling, [tensors[f"sigma{i}"] for i in range(len(facts.widths))])
        decoder.load_state_dict(tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the decoder that it tells of: {error}") from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise ValueError(f"{path} has NaN or infinite numbers")
    decoder.facts = facts
    return decoder.requires_grad_(False).eval()


def _facts(path: Path) -> DecoderFacts:
    if not path.is_file():
        raise ValueError(f"there is no decoder {path}; give packaged, or a file or folder written by orthogon train-decoder")
    try:
        with safe_open(path, framework="pt") as file:
            told = json.loads((file.metadata() or {})["decoder"])
        return DecoderFacts(**{**told, "widths": tuple(map(tuple, told["widths"]))})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no decoder written by orthogon train-decoder: {error}") from error
