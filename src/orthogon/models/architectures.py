"""From the name of an architecture to a fresh network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from orthogon.models import timm_models, torchvision_models
from orthogon.models.bottleneck_resnet import BottleneckResNet50
from orthogon.models.cifar_resnet import CifarResNet
from orthogon.models.lisa_cnn import LisaCNN
from orthogon.models.moth_resnet import MothResNet
from orthogon.models.nin import NetworkInNetwork
from orthogon.models.preact_resnet import PreActResNet18
from orthogon.models.user_code import build_from_file
from orthogon.models.vgg import VGG, VGG13, VGG19, SmallVGG
from orthogon.models.wide_resnet import WideResNet16x1

Shape = tuple[int, int, int]

CIFAR_SHAPE: Shape = (3, 32, 32)

ARCHITECTURES: Mapping[str, Callable[[int, Shape], nn.Module]] = MappingProxyType(
    {
        "resnet20": lambda classes, shape: CifarResNet(20, classes, shape[0]),
        "resnet32": lambda classes, shape: CifarResNet(32, classes, shape[0]),
        "resnet44": lambda classes, shape: CifarResNet(44, classes, shape[0]),
        # The papers' ResNet50 has 6n + 2 layers too: the MOTH release builds "resnet50" by the same formula, n = 8,
        # and its training time in DECK's table VI is 1.3 times that of ResNet20, not 30 times.
        "resnet50": lambda classes, shape: CifarResNet(50, classes, shape[0]),
        "resnet56": lambda classes, shape: CifarResNet(56, classes, shape[0]),
        "resnet50_bottleneck": lambda classes, shape: BottleneckResNet50(classes, shape[0]),
        "moth_resnet20": lambda classes, shape: MothResNet(20, classes, shape[0], shape[1:]),
        "moth_resnet32": lambda classes, shape: MothResNet(32, classes, shape[0], shape[1:]),
        "moth_resnet50": lambda classes, shape: MothResNet(50, classes, shape[0], shape[1:]),
        "preact_resnet18": lambda classes, shape: PreActResNet18(classes, shape[0]),
        "wrn16_1": lambda classes, shape: WideResNet16x1(classes, shape[0]),
        "nin": lambda classes, shape: NetworkInNetwork(classes, shape[0]),
        "vgg13_bn": lambda classes, shape: VGG(VGG13, classes, shape[0]),
        "vgg19_bn": lambda classes, shape: VGG(VGG19, classes, shape[0]),
        "vgg_small": lambda classes, shape: SmallVGG(classes, shape[0]),
        "lisa_cnn": lambda classes, shape: LisaCNN(classes, shape[0]),
    }
)
"""Name -> builder of (classes, image shape). All take any class count; the card of each is its class's docstring."""


def build(arch: str, classes: int, image_shape: Shape) -> nn.Module:
    """A fresh network of the named architecture, in evaluation mode, weights drawn from torch's global generator.

    Args:
        arch: a name of `ARCHITECTURES`; `timm:NAME`; `torchvision:NAME`; or `path/file.py:function`, the user's own
            code, which is run and called with the class count, or with nothing if it takes no argument.
        classes: number of logits, at least 2.
        image_shape: (channels, height, width) of the images.

    Raises:
        ValueError: an unknown name, a class count below 2, or images that the network cannot take.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least two classes, got {classes}")
    network = construct(arch, classes, image_shape).eval()
    outputs = count_outputs(network, image_shape, arch)
    if outputs != classes:
        raise ValueError(f"{arch} returns {outputs} logits, asked for {classes} classes")
    return network


def construct(arch: str, classes: int, image_shape: Shape) -> nn.Module:
    """The network of `build`, not tried on an image."""
    if arch.startswith(timm_models.PREFIX):
        return timm_models.fresh(arch, classes, image_shape)
    if arch.startswith(torchvision_models.PREFIX):
        return torchvision_models.fresh(arch, classes, image_shape)
    if ".py:" in arch:
        return build_from_file(arch, classes)
    return ARCHITECTURES[known(arch)](classes, image_shape)


def known(arch: str) -> str:
    """The name itself if it is one of `ARCHITECTURES`.

    Raises:
        ValueError: it is not; the message lists the names.
    """
    if arch in ARCHITECTURES:
        return arch
    close = difflib.get_close_matches(arch, ARCHITECTURES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(
        f"unknown architecture {arch!r}{hint}; known are {', '.join(ARCHITECTURES)}, "
        "timm:NAME, torchvision:NAME and path/file.py:function for your own code"
    )


def is_name(arch: str) -> bool:
    """Whether `arch` names an architecture without naming code to run or a place to fetch from."""
    prefix, colon, name = arch.partition(":")
    library = prefix + colon in (timm_models.PREFIX, torchvision_models.PREFIX)
    return arch in ARCHITECTURES or (library and not set(name) & set(":/\\"))


def default_shape(arch: str) -> Shape | None:
    """The image shape that the architecture was made for, (channels, height, width); None for the user's own code."""
    if arch.startswith(timm_models.PREFIX):
        return timm_models.preprocessing(arch).image_shape
    if arch.startswith(torchvision_models.PREFIX):
        return torchvision_models.preprocessing(arch).image_shape
    return CIFAR_SHAPE if arch in ARCHITECTURES else None


@torch.no_grad()
def count_outputs(network: nn.Module, image_shape: Shape, name: str) -> int:
    """Number of logits that the network (in evaluation mode) returns for one black image.

    Raises:
        ValueError: the network cannot take such images, or does not return logits (1, classes).
    """
    try:
        logits = network(torch.zeros(1, *image_shape))
    except (RuntimeError, torch.jit.Error, ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{name} cannot take images of shape {tuple(image_shape)}: {_first_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"{name} must return logits (1, classes) for one image, it returned {found}")
    return logits.shape[1]


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
