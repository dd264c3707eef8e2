"""Frozen encoders: the feature space in which pervasive triggers act and are measured (DECK, section IV-A)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import SafetensorError
from torch import Tensor, nn

from orthogon import runs

WEIGHTS = Path(__file__).parent / "weights"
"""The packaged encoder and decoders."""

Layer = Literal["pool1", "pool2"]

_CONVOLUTIONS = {"pool1": ((0, 2),), "pool2": ((0, 2), (5, 7))}
"""Up to a layer, the numbers of each block's convolutions in the order of torchvision's `features` (VGG-13, -16 and -19)."""
_VGG_WIDTHS = ((64, 64), (128, 128))
_KNOWN = {"c3bc0c80b4490a7af43293a5b2da7510679140f229deaec1088dc98e9b7593dc": ("vgg19", "caffe 0..255")}
"""SHA-256 of files known to hold VGG convolutions: the network's name and its pixel scale."""
_TORCHVISION = ("vgg19", "vgg16")


@dataclass(frozen=True)
class _Scale:
    """What a network was trained to see: (255 x - mean) / deviation per channel in the order red, green, blue."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    reversed: bool = False
    """Whether the file's first convolution takes blue, green, red."""


_SCALES = {
    "caffe 0..255": _Scale((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), reversed=True),
    "torch": _Scale((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "centred 0..255": _Scale((127.5, 127.5, 127.5), (1.0, 1.0, 1.0)),
}


_WORDS = {"own": "", "caffe": "caffe 0..255", "torch": "torch"}
"""What a user calls scales: own, where it is known of the weights."""


class Encoder(nn.Module):
    """Blocks of 3×3 convolutions with ReLU, each followed by 2×2 max pooling; frozen, in evaluation mode.

    Images of an odd side lose their last row or column in the pooling.

    Args:
        weights: "features.N.weight" (o, i, 3, 3) and "features.N.bias" (o,) of the convolutions up to `layer`; others are
            passed over.
        name: of the network, as results tell it.
        layer: the pooling whose output is the features: "pool1" or "pool2".
        scale: of the pixels that the network was trained on: "caffe 0..255", "torch" or "centred 0..255".
        resolution: side to which images are resized before they are encoded; None: as they are.

    Raises:
        ValueError: an unknown layer or scale, a resolution below one cell, or weights that do not make such a network.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, weights: Mapping[str, Tensor], name: str, layer: str = "pool1", scale: str = "torch", resolution: int | None = None
    ) -> None:
        super().__init__()
        if layer not in _CONVOLUTIONS:
            raise ValueError(f"an encoder's layer is pool1 or pool2, got {layer!r}")
        if scale not in _SCALES:
            raise ValueError(f"an encoder's scale is one of {', '.join(_SCALES)}, got {scale!r}")
        self.name, self.layer, self.scale, self.resolution = name, layer, scale, resolution
        self.stride = 2 ** len(_CONVOLUTIONS[layer])
        if resolution is not None and resolution < self.stride:
            raise ValueError(f"an encoder of stride {self.stride} needs a resolution of at least that, got {resolution}")
        self.blocks = nn.ModuleList(_block(weights, numbers, name) for numbers in _CONVOLUTIONS[layer])
        self._check_chain()
        self.channels = self.widths[-1][1]
        settings = _SCALES[scale]
        if settings.reversed:
            first = self._convolutions()[0]
            first.weight = nn.Parameter(first.weight.flip(1))
        self.register_buffer("mean", torch.tensor(settings.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(settings.deviation).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Output channels of the two convolutions of each block."""
        convolutions = self._convolutions()
        return tuple((a.out_channels, b.out_channels) for a, b in zip(convolutions[::2], convolutions[1::2], strict=True))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Features of images in [0, 1], differentiably in the images.

        Raises:
            ValueError: images smaller than one cell, or not of three channels.
        """
        values = self._prepared(images)
        for block in self.blocks:
            values = F.max_pool2d(block(values), 2).relu()  # pooled first, a quarter is left for the ReLU
        return values

    def stages(self, images: Float[Tensor, "n 3 h w"]) -> list[tuple[Tensor, Tensor]]:
        """Per block its activations before the pooling and after it, of images in [0, 1]; errors as `forward`."""
        values, stages = self._prepared(images), []
        for block in self.blocks:
            active = block(values).relu()
            values = F.max_pool2d(active, 2)
            stages.append((active, values))
        return stages

    def switches(self, images: Float[Tensor, "n 3 h w"]) -> list[Int64[Tensor, "..."]]:
        """Per block where each maximum stood, as `max_unpool2d` takes it: in the plane without what an odd side loses."""
        even = [active[..., : 2 * pooled.shape[-2], : 2 * pooled.shape[-1]] for active, pooled in self.stages(images)]
        return [F.max_pool2d(active, 2, return_indices=True)[1] for active in even]

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the features of images of this size."""
        if self.resolution is not None:
            height = width = self.resolution
        return height // self.stride, width // self.stride

    def network_digest(self) -> str:
        """SHA-256 over weights, layer and scale: what a decoder has to fit. The resolution is no part of it."""
        state = hashlib.sha256(json.dumps([self.layer, self.scale]).encode())
        for name, tensor in sorted(self.blocks.state_dict().items()):
            state.update(f"{name} {tuple(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().float().contiguous().numpy().data)
        return state.hexdigest()

    def digest(self) -> str:
        """SHA-256 over weights and settings; distances by encoders that differ in it are not comparable."""
        return hashlib.sha256(f"{self.network_digest()} {self.resolution}".encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """What results say of the encoder, JSON-like."""
        told = {"name": self.name, "layer": self.layer, "scale": self.scale, "resolution": self.resolution}
        return {**told, "channels": self.channels, "stride": self.stride, "digest": self.digest()}

    def _prepared(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"an encoder takes RGB images (n, 3, h, w), got {tuple(images.shape)}; open them as 3xHxW")
        if min(images.shape[2:]) < self.stride:
            raise ValueError(
                f"the encoder's {self.layer} needs {self.stride} pixels a side, images are {tuple(images.shape[2:])}"
            )
        if self.resolution is not None and images.shape[2:] != (self.resolution, self.resolution):
            images = F.interpolate(images, size=(self.resolution,) * 2, mode="bilinear", antialias=True)
        return (images * 255 - self.mean) / self.deviation

    def _convolutions(self) -> list[nn.Conv2d]:
        return [module for module in self.blocks.modules() if isinstance(module, nn.Conv2d)]

    def _check_chain(self) -> None:
        taken = 3
        for convolution in self._convolutions():
            if convolution.in_channels != taken:
                raise ValueError(f"{self.name}: a convolution takes {convolution.in_channels} channels where {taken} come in")
            taken = convolution.out_channels


def open_encoder(spec: str = "embedded", layer: str = "pool1", resolution: int | None = None, scale: str = "own") -> Encoder:
    """Open an encoder.

    Args:
        spec: "embedded" (small, trained by this project, packaged); "torchvision:vgg19" or "torchvision:vgg16" (fetched by
            torchvision); a .safetensors file of VGG convolutions.
        layer: "pool1", as in the paper, or "pool2", which is worse (DECK, Table X).
        resolution: side to which images are resized before they are encoded; None: as they are.
        scale: of the pixels that the encoder was trained on. "own": the one that is known of it, of a file by its SHA-256;
            "caffe" (blue first, 0..255) or "torch" (torchvision's) of any other file, by which you answer for what it holds.

    Raises:
        ValueError: no such file, a file that is not known or holds another network, weights that cannot be fetched, a layer that
            the encoder does not have, or another scale than the known one.
    """
    if layer not in _CONVOLUTIONS:
        raise ValueError(f"an encoder's layer is pool1 or pool2, got {layer!r}")
    if scale not in _WORDS:
        raise ValueError(f"an encoder's scale is one of {', '.join(_WORDS)}, got {scale!r}")
    if spec == "embedded":
        if layer != "pool1":
            raise ValueError(f"the embedded encoder ends at pool1, so it has no {layer}; take a VGG, such as torchvision:vgg19")
        own = _known_scale(spec, "centred 0..255", scale)
        return Encoder(_read(WEIGHTS / "encoder-embedded.safetensors"), "embedded", layer, own, resolution)
    if spec.startswith("torchvision:"):
        name = spec.removeprefix("torchvision:")
        own = _known_scale(spec, "torch", scale)
        return _vgg(_fetched(name), name, layer, own, resolution)
    path = Path(spec).expanduser()
    weights = _read(path)
    name, own = _identity(path, scale)
    return _vgg(weights, name, layer, own, resolution)


def _identity(path: Path, scale: str) -> tuple[str, str]:
    """Name and pixel scale of a file: what is known of it, else what the user says."""
    digest = runs.digest(path)
    if digest in _KNOWN:
        name, own = _KNOWN[digest]
        return name, _known_scale(str(path), own, scale)
    if scale == "own":
        raise ValueError(
            f"{path} (SHA-256 {digest}) is none of the {len(_KNOWN)} files of VGG convolutions that are known, so that its pixel "
            "scale is unknown too; if you trust it, say --encoder-scale caffe (blue first, 0..255) or torch (torchvision's)"
        )
    return f"unverified {path.stem}", _WORDS[scale]


def _known_scale(spec: str, own: str, asked: str) -> str:
    """The scale that an encoder is known to have; nobody can ask for another."""
    if asked != "own" and _WORDS[asked] != own:
        raise ValueError(f"the encoder {spec} was trained on pixels {own!r}, not {_WORDS[asked]!r}: leave its scale out")
    return own


def _vgg(weights: Mapping[str, Tensor], name: str, layer: str, scale: str, resolution: int | None) -> Encoder:
    encoder = Encoder(weights, name, layer, scale, resolution)
    if encoder.widths != _VGG_WIDTHS[: len(encoder.widths)]:
        raise ValueError(f"{name} is not a VGG: its blocks have {encoder.widths} channels, a VGG's have {_VGG_WIDTHS}")
    return encoder


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise ValueError(
            f"{path} is no encoder: give embedded, {' or '.join(f'torchvision:{name}' for name in _TORCHVISION)}, "
            "or a .safetensors file of VGG convolutions that exists"
        )
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def _fetched(name: str) -> Mapping[str, Tensor]:
    """Weights that torchvision publishes, from its cache or the network."""
    import torchvision.models  # slow to import, and needed here alone

    if name not in _TORCHVISION:
        raise ValueError(f"torchvision:{name} is no encoder; there are {', '.join(f'torchvision:{n}' for n in _TORCHVISION)}")
    try:
        return torchvision.models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip() or type(error).__name__
        raise ValueError(f"cannot get the weights of torchvision:{name}: {reason}; give a file of them, or embedded") from error


def _block(weights: Mapping[str, Tensor], numbers: Sequence[int], source: str) -> nn.Sequential:
    """Convolutions with a ReLU between them; the one after the last is the encoder's, which pools first."""
    first, *others = _convolutions_of(weights, numbers, source)
    return nn.Sequential(first, *(layer for other in others for layer in (nn.ReLU(), other)))


def _convolutions_of(weights: Mapping[str, Tensor], numbers: Sequence[int], source: str) -> Iterator[nn.Conv2d]:
    for number in numbers:
        weight, bias = (weights.get(f"features.{number}.{kind}") for kind in ("weight", "bias"))
        if weight is None or bias is None:
            raise ValueError(f"{source} has no features.{number}.weight and .bias; an encoder needs a VGG's convolutions")
        if weight.ndim != 4 or weight.shape[2:] != (3, 3) or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{source}: features.{number} is {tuple(weight.shape)} with bias {tuple(bias.shape)}, "
                "an encoder needs (out, in, 3, 3) and (out,)"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ValueError(f"{source}: features.{number} has NaN or infinite numbers")
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
        convolution.weight, convolution.bias = (nn.Parameter(tensor.float().clone()) for tensor in (weight, bias))
        yield convolution
