"""Stimulated neurons: which classes one neuron alone can bring about, and how well the triggers work that they lead to (ABS)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.evaluate import attack_success
from orthogon.images import LabelledImages, shuffled
from orthogon.layers import outputs, require_layers
from orthogon.machine import device_of
from orthogon.pairs import Inversion
from orthogon.protocols import named
from orthogon.scanning.evidence import stamp_of
from orthogon.triggers import FAMILIES

SEARCHED_FAMILIES = ("patch", "filter")
"""Of the triggers that are searched for a candidate's class."""
_AT_ONCE = 512
"""Feature maps that pass the rest of the network together."""


@dataclass(frozen=True)
class Candidate:
    """A neuron that alone can bring about a class."""

    layer: str
    neuron: int
    """Channel of the layer's output."""
    target: int
    """The class."""
    lift: float
    """By how much the class's logit gains on every other, on the image where it gains least."""


@dataclass(frozen=True)
class Stimulating:
    """The settings and steps that ABS has as a scanner and as a remover.

    A neuron is a channel; stimulated, its whole feature map has one value while all others stay as an image made them. A
    candidate lifts the same class above all others on nearly every image.
    """

    values: int = 8
    """Activations tried per neuron, evenly from 0 to the layer's largest on the images (section 4.2: 8 samples)."""
    stimulated_images: int = 50
    """Clean images that neurons are stimulated on (the release's larger seed set: 50)."""
    neurons: int = 20
    """Candidates that are kept at the most, those with the largest lift (the release)."""
    agreement: float = 0.9
    """Share of the images on which a candidate lifts the same class the most, 0 to 1 (the release)."""
    protocol: str = "fast"
    """How the triggers are searched (see `orthogon measure`)."""
    reasr: float = 0.8
    """Share of the held-out images of other classes above which a trigger counts as a backdoor's, 0 to 1 (the release)."""
    largest_patch: float = 0.0625
    """Most that a patch's mask may cover, as a share of the image (the release: 64 of 1,024 pixels)."""

    def require_settings(self) -> None:
        """Raise ValueError for a setting out of range."""
        if self.values < 2 or min(self.stimulated_images, self.neurons) < 1:
            told = f"{self.values}, {self.stimulated_images}, {self.neurons}"
            raise ValueError(f"values must be at least 2, stimulated_images and neurons at least 1, got {told}")
        for name in ("agreement", "reasr", "largest_patch"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        for family in SEARCHED_FAMILIES:
            named(self.protocol, family)

    def candidates(
        self,
        classifier: Classifier,
        images: LabelledImages,
        layers: Sequence[str],
        generator: torch.Generator,
        on_progress: Callable[[float], None],
    ) -> list[Candidate]:
        """The neurons with the largest lift, over all layers that are looked at.

        Raises:
            ValueError: a layer that is none, or whose output does not alone decide the logits.
        """
        require_layers(classifier, layers)
        order = shuffled(torch.arange(len(images)), generator)[: self.stimulated_images]
        seen, found = images.select(order), list[Candidate]()
        for i, layer in enumerate(layers):

            def told(share: float, first: int = i) -> None:
                on_progress((first + share) / len(layers))

            lifts = elevations(classifier, layer, seen, self.values, told)
            found += candidates_of(layer, lifts, seen.labels, self.agreement)
        return sorted(found, key=lambda candidate: -candidate.lift)[: self.neurons]

    def success(self, classifier: Classifier, held_out: LabelledImages, family: str, inversion: Inversion) -> float:
        """A trigger's REASR: its success rate on held-out images; 0 for a patch that covers too much, or without images."""
        mask = inversion.trigger.get("mask")
        if mask is not None and float(mask.mean()) > self.largest_patch:
            return 0.0
        target, stamp = inversion.pair.target, stamp_of(FAMILIES[family], inversion.trigger, device_of(classifier))
        if not bool((held_out.labels != target).any()):
            return 0.0
        return attack_success(classifier, held_out, stamp, target).success_rate


def elevations(
    classifier: Classifier,
    layer: str,
    images: LabelledImages,
    values: int,
    on_progress: Callable[[float], None] = lambda share: None,
) -> Float[Tensor, "neurons images classes"]:
    """By how much stimulating one neuron can raise each logit of each image, over the logit with the neuron at 0.

    Args:
        classifier: in evaluation mode.
        layer: gives (n, neurons, ...); its output has to decide the logits alone.
        images: whose other neurons stay as they are.
        values: activations tried, from 0 to the layer's largest.
        on_progress: told the share done, 0 to 1.

    Raises:
        ValueError: the layer's output does not alone decide the logits, or is no tensor (n, neurons, ...).
    """
    rest = _Rest(classifier, layer, images)
    steps = torch.linspace(0, max(float(rest.features.max()), 0.0), values)
    result = []
    for neuron in range(rest.features.shape[1]):
        logits = rest.logits(neuron, steps)
        result.append(logits[1:].amax(0) - logits[0])
        on_progress((neuron + 1) / rest.features.shape[1])
    return torch.stack(result)


def candidates_of(
    layer: str, lifts: Float[Tensor, "neurons images classes"], labels: Int64[Tensor, " images"], agreement: float
) -> list[Candidate]:
    """The neurons that lift one class above all others on at least a share of the images (the release's rule).

    The lift of a neuron is the least margin by which its class gains on the next, over the images of other classes on which
    it is this class that gains most.
    """
    best = lifts.topk(2, dim=2)
    margins, classes = best.values[..., 0] - best.values[..., 1], best.indices[..., 0]
    found = []
    for neuron, (margin, mine) in enumerate(zip(margins, classes, strict=True)):
        target = int(mine.mode().values)
        others = (mine == target) & (labels.to(mine.device) != target)
        if int((mine == target).sum()) >= agreement * len(mine) - 1e-9 and bool(others.any()):
            found.append(Candidate(layer, neuron, target, float(margin[others].min())))
    return [candidate for candidate in found if candidate.lift > 0 and math.isfinite(candidate.lift)]


class _Rest:
    """What a network makes of a layer's output: the network itself, in which the layer answers with what it is given.

    The layers before it see one black image, so that a stimulation costs no more than the layers behind; or as many as there are
    answers, where a network insists on one number of images.
    """

    def __init__(self, classifier: Classifier, layer: str, images: LabelledImages) -> None:
        device = device_of(classifier)
        self._network, self._layer = classifier.network, classifier.network.get_submodule(layer)
        self._black, self._one = torch.zeros(1, *classifier.image_shape, device=device), True
        with torch.no_grad(), outputs(classifier, [layer]) as seen:
            clean = classifier(images.floats(device))
            self.features: Tensor = seen[layer]
        if not (isinstance(self.features, Tensor) and self.features.ndim >= 2 and len(self.features) == len(images)):
            raise ValueError(f"layer {layer!r} gives no tensor (images, neurons, ...): name another layer")
        if not self._is_all(clean):
            self._one = False
            if not self._is_all(clean):
                raise ValueError(
                    f"the output of layer {layer!r} does not alone decide the logits (a branch passes it by, or it is used "
                    "twice): name a layer that everything passes, such as a residual network's last stage"
                )

    def logits(self, neuron: int, values: Float[Tensor, " values"]) -> Float[Tensor, "values n classes"]:
        """Of all images with one neuron at each of some values."""
        features = self.features.repeat(len(values), *[1] * (self.features.ndim - 1)).unflatten(0, (len(values), -1))
        features[:, :, neuron] = values.to(features).view(-1, *[1] * (features.ndim - 2))
        return self._answered(features.flatten(0, 1)).unflatten(0, (len(values), -1))

    def _is_all(self, clean: Tensor) -> bool:
        """Whether the layer's output brings about the same logits whatever image is before it."""
        try:
            again = self._answered(self.features)
        except Exception:  # a network may check or reshape its images in its own way, and each leaves the layer useless
            return False
        return again.shape == clean.shape and torch.allclose(again, clean, rtol=1e-3, atol=1e-3)

    def _answered(self, features: Tensor) -> Tensor:
        return torch.cat([self._passed(part) for part in features.split(_AT_ONCE)])

    def _passed(self, part: Tensor) -> Tensor:
        handle = self._layer.register_forward_hook(lambda module, inputs, output: part)
        try:
            with torch.no_grad():
                return self._network(self._black if self._one else self._black.expand(len(part), -1, -1, -1))
        finally:
            handle.remove()
