"""What clean images go through before the model trains on them: PGD, or one perturbation for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.frozen import FrozenCopy, Speed
from orthogon.machine import device_of
from orthogon.methods import HardeningSettings


@runtime_checkable
class Adversary(Protocol):
    """Attacks the clean images of every update."""

    def perturb(
        self, classifier: Classifier, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """The images to train on instead, in [0, 1]."""
        ...

    def learn(self) -> None:
        """Called after the backward pass through the images given out last."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        ...


class Nobody:
    """Leaves the images as they are."""

    def perturb(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The images."""
        return images

    def learn(self) -> None:
        """Nothing to learn."""

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to take up."""


class PGD(Nobody):
    """Projected gradient descent on each image (Madry et al. 2018), against the model in evaluation mode.

    Its gradients come from the frozen fast copy, which takes over the model's weights before every batch.
    """

    def __init__(self, classifier: Classifier, settings: HardeningSettings, chunk: int) -> None:
        self._bound, self._steps = settings.bound, settings.adversary_steps
        self._copy = FrozenCopy(classifier, _cross_entropy, device_of(classifier), Speed(compile=False, chunk=chunk, pad=False))

    def perturb(
        self, classifier: Classifier, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], generator: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Each image moved, within the bound, to where the model's loss is larger."""
        self._copy.refresh(classifier)
        low, high = (images - self._bound).clamp(min=0), (images + self._bound).clamp(max=1)
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        point = (images + self._bound * (2 * noise - 1)).clamp(low, high)
        alike = torch.ones(len(images), device=images.device)
        for _ in range(self._steps):
            _, gradient = self._copy.gradient(point, labels, alike)
            point = (point + 2.5 * self._bound / self._steps * gradient.sign()).clamp(low, high)
        return point.to(images.dtype)


class UniversalPerturbation(Nobody):
    """One perturbation for all images, moved by the sign of its gradient in every update (Shafahi et al. 2020).

    The gradient is the one of the training step's own backward pass, so the attack costs next to nothing.
    """

    def __init__(self, classifier: Classifier, settings: HardeningSettings) -> None:
        self._bound = settings.bound
        self._perturbation = torch.zeros(classifier.image_shape, device=device_of(classifier)).requires_grad_()

    def perturb(self, classifier: Classifier, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The images with the perturbation added; the graph leads back to it."""
        return (images + self._perturbation).clamp(0, 1)

    def learn(self) -> None:
        """One step of the bound's size along the sign of the gradient, back within the bound."""
        gradient = self._perturbation.grad
        if gradient is not None:
            with torch.no_grad():
                self._perturbation.add_(self._bound * gradient.sign()).clamp_(-self._bound, self._bound)
            self._perturbation.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """The perturbation."""
        return {"perturbation": self._perturbation.detach()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the perturbation."""
        with torch.no_grad():
            self._perturbation.copy_(tensors["perturbation"])


def adversary(classifier: Classifier, settings: HardeningSettings, chunk: int) -> Adversary:
    """The one that the settings name."""
    match settings.adversary:
        case "pgd":
            return PGD(classifier, settings, chunk)
        case "universal perturbation":
            return UniversalPerturbation(classifier, settings)
        case "none":
            return Nobody()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")
