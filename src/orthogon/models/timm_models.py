"""Networks of timm, fresh or pretrained, by `timm:NAME`."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from orthogon.classifier import Normalization
from orthogon.models.preprocessing import DownloadError, Preprocessing

PREFIX = "timm:"


def fresh(arch: str, classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """An untrained network for images (channels, height, width); nothing is fetched.

    Raises:
        ValueError: a name that timm does not know, or an image size that the network cannot be built for.
    """
    config = _config(arch)
    # Transformers are built for one image size; convolutional networks refuse to be told one.
    size: dict[str, Any] = {"img_size": image_shape[1:]} if config.get("fixed_input_size") else {}
    try:
        return timm.create_model(_name(arch), num_classes=classes, in_chans=image_shape[0], **size)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"timm cannot build {arch} for {classes} classes of {image_shape} images: {error}") from error


def pretrained(arch: str) -> nn.Module:
    """The network with the weights that timm publishes, from its cache or the Hugging Face hub.

    Raises:
        ValueError: a name that timm does not know, or one without published weights.
        DownloadError: the weights are not cached and cannot be fetched.
    """
    _config(arch)
    try:
        return timm.create_model(_name(arch), pretrained=True)
    except Exception as error:  # the hub, its HTTP client and its cache each have their own families of errors
        raise DownloadError(
            f"cannot get the weights of {arch}: {str(error).strip() or type(error).__name__}. Without a network, "
            f"give a local checkpoint as the model and {arch} as its architecture"
        ) from error


def preprocessing(arch: str) -> Preprocessing:
    """Input size and mean / std of timm's own configuration of this network."""
    config = _config(arch)
    channels, height, width = (int(side) for side in config["input_size"])
    mean, std = (tuple(float(value) for value in config[key]) for key in ("mean", "std"))
    return Preprocessing((channels, height, width), Normalization(mean, std))


def _name(arch: str) -> str:
    return arch.removeprefix(PREFIX)


def _config(arch: str) -> dict[str, Any]:
    name = _name(arch)
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        close = timm.list_models(f"*{plain}*")[:5]
        hint = f"; close names: {', '.join(close)}" if close else " (timm.list_models() lists them)"
        raise ValueError(f"timm has no model {name!r}{hint}")
    tags = timm.list_pretrained(f"{plain}.*")
    config = timm.get_pretrained_cfg(name) if name == plain or name in tags else None
    if config is None:
        raise ValueError(f"timm has no weights {name!r}; it has {', '.join(tags) or 'none'}")
    return config.to_dict()
