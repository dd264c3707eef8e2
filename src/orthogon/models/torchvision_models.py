"""Classification networks of torchvision, fresh or pretrained, by `torchvision:NAME` or `torchvision:NAME.WEIGHTS`."""

from __future__ import annotations

import difflib
from typing import Any

import torchvision.models
from torch import nn

from orthogon.classifier import Normalization
from orthogon.models.preprocessing import DownloadError, Preprocessing

PREFIX = "torchvision:"


def fresh(arch: str, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """An untrained network for RGB images (3, height, width); nothing is fetched.

    Raises:
        ValueError: a name that torchvision does not know, images that are not RGB, or a fixed image size not met.
    """
    name = _known(arch)
    if image_shape[0] != 3:
        raise ValueError(f"torchvision's networks take 3 channels, {arch} cannot be built for {image_shape} images")
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **_options(name, image_shape))
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"torchvision cannot build {arch} for {image_shape} images: {error}") from error


def pretrained(arch: str) -> nn.Module:
    """The network with torchvision's own weights, the newest unless `NAME.WEIGHTS` says which.

    Raises:
        ValueError: a name that torchvision does not know.
        DownloadError: the weights are not cached and cannot be fetched.
    """
    name, weights = _known(arch), _weights(arch)
    try:
        return torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"cannot get the weights of {arch}: {str(error).strip() or type(error).__name__}. Without a network, "
            f"give a local checkpoint as the model and {arch} as its architecture"
        ) from error


def preprocessing(arch: str) -> Preprocessing:
    """Crop size, mean / std and class names of the weights that torchvision publishes for this network."""
    _known(arch)
    weights = _weights(arch)
    transform = weights.transforms()
    height, width = (list(transform.crop_size) * 2)[:2]
    mean, std = tuple(map(float, transform.mean)), tuple(map(float, transform.std))
    return Preprocessing((3, int(height), int(width)), Normalization(mean, std), tuple(weights.meta["categories"]))


def _known(arch: str) -> str:
    name = arch.removeprefix(PREFIX).partition(".")[0]
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; close names: {', '.join(close)}" if close else " (torchvision.models.list_models() lists them)"
        raise ValueError(f"torchvision has no classification model {name!r}{hint}")
    return name


def _weights(arch: str) -> Any:
    name, _, wanted = arch.removeprefix(PREFIX).partition(".")
    choices = torchvision.models.get_model_weights(name)
    if wanted and wanted not in choices.__members__:
        raise ValueError(f"torchvision's {name} has no weights {wanted!r}; it has {', '.join(choices.__members__)}")
    return choices[wanted or "DEFAULT"]


def _options(name: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Arguments that only some networks know: auxiliary heads are for training alone; a ViT has one image size."""
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": image_shape[1]}
    return {"input_size": image_shape[1:]} if name == "maxvit_t" else {}
