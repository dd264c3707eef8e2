"""From a file or a name to a classifier: `load_classifier`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from orthogon.classifier import Classifier, Normalization
from orthogon.models import architectures, timm_models, torchvision_models
from orthogon.models.cards import Card, card_beside, normalization_entry, parse_normalization
from orthogon.models.checkpoint import Weights, read_checkpoint
from orthogon.models.errors import CheckpointError
from orthogon.models.preprocessing import Preprocessing
from orthogon.models.weights import check_finite, class_count, fill

Shape = tuple[int, int, int]


def load_classifier(
    model: str,
    *,
    arch: str | None = None,
    normalization: str | None = None,
    classes: Sequence[str] | None = None,
    image_shape: Shape | None = None,
) -> Classifier:
    """Load anybody's classifier, without running code from its file.

    What is not given is taken from the card beside the weights (`net.json` for `net.safetensors`), then from what the
    architecture's library knows, then from the weights (the class count; the names are then "0", "1", …).

    Args:
        model: path of a checkpoint (`read_checkpoint` says which kinds), or `timm:NAME` / `torchvision:NAME` for the
            weights that these libraries publish.
        arch: see `orthogon.models.build`; not needed for whole networks, TorchScript and published weights.
        normalization: see `parse_normalization`.
        classes: class names in the order of the logits.
        image_shape: (channels, height, width).

    Returns:
        The classifier in evaluation mode, float32, on the CPU; its `card` holds all of the card's entries and what
        was settled here.

    Raises:
        CheckpointError: the checkpoint is refused, corrupt, does not fit the architecture or has NaN weights.
        ValueError: an argument or the card is wrong, or something that cannot be guessed is missing.
        OSError: the file does not exist, or published weights cannot be fetched.
    """
    if model.startswith((timm_models.PREFIX, torchvision_models.PREFIX)):
        return _published(model, arch, normalization, classes, image_shape)
    card = card_beside(Path(model))
    content = read_checkpoint(Path(model))
    if isinstance(content, nn.Module) and arch is not None:
        content = dict(content.state_dict())
    name = None if isinstance(content, nn.Module) else _architecture(arch, card, model)
    library = _library(name)
    shape = image_shape or card.image_shape or (library.image_shape if library else architectures.default_shape(name or ""))
    if shape is None:
        raise ValueError(f"{model}: give the image shape (channels, height, width), neither card nor architecture tells it")
    names = classes or card.classes
    network = _network(content, model, name, len(names) if names else None, shape)
    inside = _normalization(normalization, card, library)
    return _classifier(network, names, shape, inside, card, name)


def _published(
    model: str, arch: str | None, normalization: str | None, classes: Sequence[str] | None, image_shape: Shape | None
) -> Classifier:
    """A network of timm or torchvision with the weights that they publish."""
    if arch not in (None, model):
        raise ValueError(f"{model} names the architecture already, --arch {arch} contradicts it")
    source = timm_models if model.startswith(timm_models.PREFIX) else torchvision_models
    library = source.preprocessing(model)
    network = source.pretrained(model).eval()
    inside = _normalization(normalization, Card(), library)
    shape = image_shape or library.image_shape
    return _classifier(network, classes or library.classes, shape, inside, Card(), model)


def _architecture(arch: str | None, card: Card, model: str) -> str:
    """The architecture's name; a card may name one of ours or a library's, but no code to run."""
    if arch is not None:
        return arch
    known = f"{', '.join(architectures.ARCHITECTURES)}, timm:NAME, torchvision:NAME, path/file.py:function"
    if card.architecture is None:
        raise ValueError(f"{model} holds weights alone and no card names their architecture; give --arch, one of {known}")
    if not architectures.is_name(card.architecture):
        raise ValueError(
            f"{model}: its card describes the architecture as {card.architecture!r}, which is not a name that is taken "
            f"from a card; give --arch, one of {known}"
        )
    return card.architecture


def _library(arch: str | None) -> Preprocessing | None:
    if arch is not None and arch.startswith(timm_models.PREFIX):
        return timm_models.preprocessing(arch)
    if arch is not None and arch.startswith(torchvision_models.PREFIX):
        return torchvision_models.preprocessing(arch)
    return None


def _network(content: Weights | nn.Module, model: str, arch: str | None, classes: int | None, shape: Shape) -> nn.Module:
    """The checkpoint's network, filled and checked, in evaluation mode and float32."""
    if isinstance(content, nn.Module) or arch is None:
        assert isinstance(content, nn.Module)  # an architecture is asked for wherever there are weights alone
        check_finite(content.state_dict(), model)
        return content.eval().float()
    counted = class_count(lambda count: architectures.construct(arch, count, shape), content)
    if classes is not None and counted is not None and counted != classes:
        raise CheckpointError(
            f"{model}: the checkpoint's last layer has {counted} outputs, {arch} was to be built for {classes} classes"
        )
    network = architectures.construct(arch, classes or counted or 10, shape)
    fill(network, content, model, arch)
    return network.eval().float()


def _normalization(given: str | None, card: Card, library: Preprocessing | None) -> Normalization | None:
    if given is not None:
        return parse_normalization(given)
    if card.says_normalization:
        return card.normalization
    return library.normalization if library else None


def _classifier(
    network: nn.Module,
    names: Sequence[str] | None,
    shape: Shape,
    normalization: Normalization | None,
    card: Card,
    arch: str | None,
) -> Classifier:
    """The classifier, tried on one image: it must return one logit per class."""
    outputs = architectures.count_outputs(network, shape, arch or "the network")
    names = names or tuple(str(index) for index in range(outputs))
    if len(names) != outputs:
        raise ValueError(f"{len(names)} class names for a network of {outputs} classes")
    settled: dict[str, Any] = {
        "architecture": arch,
        "normalisation": normalization_entry(normalization),
        "classes": list(names),
        "image_shape": list(shape),
    }
    facts = {key: value for key, value in card.facts.items() if key != "normalization"}
    if card.architecture not in (None, arch):
        facts["architecture_description"] = card.architecture
    return Classifier(network, tuple(names), shape, normalization, {**facts, **settled}).eval()
