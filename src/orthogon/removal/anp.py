"""ANP: prune the neurons that make a model say something else when they are disturbed a little.

A poisoned model falls for its backdoor, without any trigger, when its neurons' weights and biases are moved against it (Wu and
Wang 2021). A mask per neuron is learned that keeps the model right both as it is and under the worst such disturbance; the
neurons with the smallest masks are taken away. A neuron is a channel of a BatchNorm layer.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.removal.norms import BatchNorm, batch_norms
from orthogon.removal.remover import Remover, Work, slower


@dataclass(frozen=True)
class ANP(Remover):
    """Adversarial neuron pruning: silence the channels that a small change of their scale and shift turns most.

    Masks are learned with the batch's own statistics, as in the release of Wu and Wang 2021, and dropout off.
    """

    iterations: int = 2000
    """Updates of the masks (the release's)."""
    learning_rate: float = 0.2
    """SGD's, for the masks (the release's)."""
    momentum: float = 0.9
    """SGD's (the release's)."""
    batch: int = 128
    """Images per update (the release's)."""
    budget: float = 0.4
    """ε: largest disturbance of a neuron's weight and bias, as a share of them (the release's)."""
    attack_steps: int = 1
    """Of the disturbance, by the sign of the gradient, from a random start (the release's)."""
    natural: float = 0.2
    """α: weight of the loss of the undisturbed model; the disturbed one's is the rest (the release's)."""
    threshold_step: float = 0.05
    """Between two thresholds of the masks that are tried (the release's)."""
    threshold_max: float = 0.9
    """The last threshold tried (the release's)."""
    bound: float = 0.05
    """Largest loss of accuracy on the held-out images; the release draws curves and leaves the choice to the reader."""

    name: ClassVar[str] = "anp"
    source: ClassVar[str] = "Wu and Wang 2021 (ANP), and the authors' release"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("iterations", "batch", "attack_steps"),
            positive=("learning_rate", "threshold_step"),
            not_negative=("budget",),
            shares=("natural", "threshold_max", "bound"),
            below_one=("momentum",),
        )

    def check(self, classifier: Classifier) -> None:
        """Raise ValueError where no BatchNorm has weights."""
        if not _neurons(classifier):
            network = type(classifier.network).__name__
            raise ValueError(f"anp prunes channels of BatchNorm layers with weights, and {network} has none: take another method")

    def remove(self, work: Work) -> Classifier:
        """Learn the masks, then prune by rising thresholds for as long as the held-out images allow.

        Raises:
            ValueError: no BatchNorm has weights.
            TrainingDiverged: the loss became NaN or infinite.
        """
        self.check(work.classifier)
        return self._prune(work, self._masks(work))

    def _masks(self, work: Work) -> dict[str, Float[Tensor, " channels"]]:
        """The mask of each BatchNorm layer, 0 (away) to 1."""
        subject = copy.deepcopy(work.classifier).requires_grad_(False)
        layers = {name: _Masked(norm) for name, norm in _neurons(subject).items()}
        for name, layer in layers.items():
            subject.network.set_submodule(name, layer)
        masks = [layer.mask for layer in layers.values()]
        optimizer = torch.optim.SGD(masks, lr=self.learning_rate, momentum=self.momentum)
        passes = math.ceil(self.iterations / max(len(work.images) // self.batch, 1))
        watch = work.watch("masks", self.iterations, slower(self.learning_rate), unit="update")

        def look(update: int, loss: float) -> float:
            low = int(sum((mask < 0.5).sum() for mask in masks))
            return work.look(subject, "masks", update, loss=round(loss, 4), below_half=low)

        for number, (_, images, labels) in enumerate(islice(work.batches(passes, self.batch), self.iterations), 1):
            loss = self._loss(work, subject, list(layers.values()), images, labels)
            for mask, gradient in zip(masks, torch.autograd.grad(loss, masks), strict=True):
                mask.grad = gradient
            optimizer.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)
            watch.at(number / self.iterations, loss, look)
            work.on_progress(0.95 * number / self.iterations, watch.note)
        return {name: layer.mask.detach() for name, layer in layers.items()}

    def _loss(
        self,
        work: Work,
        subject: Classifier,
        layers: list[_Masked],
        images: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """α times that of the model as it is, plus 1 - α times that under the disturbance that one search found."""
        self._disturb(work, subject, layers, images, labels)
        disturbed = F.cross_entropy(work.logits(subject, images), labels)
        for layer in layers:
            layer.rest()
        return self.natural * F.cross_entropy(work.logits(subject, images), labels) + (1 - self.natural) * disturbed

    def _disturb(
        self,
        work: Work,
        subject: Classifier,
        layers: list[_Masked],
        images: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
    ) -> None:
        """Move every neuron against the model.

        The start is uniform within the budget and a step of the whole budget follows it without projection, as in the release.
        """
        for layer in layers:
            layer.draw(self.budget, work.generator)
        for _ in range(self.attack_steps):
            noises = [noise.requires_grad_() for layer in layers for noise in (layer.weight_noise, layer.bias_noise)]
            loss = F.cross_entropy(work.logits(subject, images), labels)
            gradients = torch.autograd.grad(loss, noises)
            with torch.no_grad():
                for noise, gradient in zip(noises, gradients, strict=True):
                    noise.requires_grad_(False).add_(self.budget / self.attack_steps * gradient.sign())

    def _prune(self, work: Work, masks: dict[str, Float[Tensor, " channels"]]) -> Classifier:
        """With the largest threshold before the held-out accuracy falls below the bound."""
        least = work.look(work.classifier, "pruning", 0) - self.bound
        best, chosen = work.classifier, None
        for number in range(round(self.threshold_max / self.threshold_step) + 1):
            threshold = number * self.threshold_step
            tried = copy.deepcopy(work.classifier)
            count = _take_away(tried, masks, threshold)
            if work.look(tried, "pruning", count, threshold=round(threshold, 6)) < least:
                break
            best, chosen = tried, threshold
        work.on_progress(1.0, "")
        work.notes.append(_told(masks, chosen, self.bound))
        return best


class _Masked(nn.Module):
    """A BatchNorm layer in training mode whose weight has a mask, and weight and bias a disturbance: (m + δ) w and (1 + ξ) b.

    It has no running statistics to spoil. The mask never touches the bias (Wu and Wang 2021).
    """

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.mask = nn.Parameter(torch.ones_like(norm.weight))
        self.weight_noise, self.bias_noise = torch.zeros_like(norm.weight), torch.zeros_like(norm.bias)

    def forward(self, x: Float[Tensor, "n channels *rest"]) -> Float[Tensor, "n channels *rest"]:
        """Normalised by the batch's own mean and variance."""
        weight, bias = self.weight * (self.mask + self.weight_noise), self.bias * (1 + self.bias_noise)
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)

    def draw(self, budget: float, generator: torch.Generator) -> None:
        """Uniform disturbances of at most that size."""
        weight, bias = (torch.rand(2, len(self.mask), generator=generator) * 2 - 1).mul_(budget).to(self.mask.device)
        self.weight_noise, self.bias_noise = weight, bias

    def rest(self) -> None:
        """No disturbance."""
        self.weight_noise, self.bias_noise = torch.zeros_like(self.mask), torch.zeros_like(self.mask)


def _neurons(classifier: Classifier) -> dict[str, BatchNorm]:
    return {name: norm for name, norm in batch_norms(classifier).items() if norm.affine}


def _take_away(classifier: Classifier, masks: dict[str, Tensor], threshold: float) -> int:
    """Set the BatchNorm weights of all neurons with masks up to the threshold to zero; how many there are."""
    norms = batch_norms(classifier)
    with torch.no_grad():
        for name, mask in masks.items():
            norms[name].weight[mask <= threshold] = 0.0
    return int(sum((mask <= threshold).sum() for mask in masks.values()))


def _told(masks: dict[str, Tensor], threshold: float | None, bound: float) -> str:
    if threshold is None:
        return f"nothing was pruned: the smallest masks alone cost more than {bound:.0%} of accuracy"
    counts = {name: int((mask <= threshold).sum()) for name, mask in masks.items()}
    total, worst = sum(counts.values()), sorted(counts, key=lambda name: -counts[name])[:3]
    where = ", ".join(f"{name} ({counts[name]})" for name in worst if counts[name])
    return f"pruned {total} {'neuron' if total == 1 else 'neurons'} with masks up to {threshold:.2f}" + (
        f", most of them in {where}" if where else ""
    )
