"""I-BAU: unlearn the one perturbation that fools the model on most images, foreseeing how it would answer.

A backdoor is a perturbation that works on every image, so the largest loss that one perturbation δ can cause stands for all that
may be planted: minimise, over the weights θ, max_δ of the loss at x + δ. The gradient for θ takes in that δ moves with θ
(the implicit hypergradient), which plain alternation leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work, slower


@dataclass(frozen=True)
class IBAU(Remover):
    """Find the one perturbation that fools the model on most images and unlearn it, foreseeing how it would answer; again.

    Images are taken as they are, BatchNorm and dropout stay in evaluation mode, as in the release of Zeng et al. 2022. The
    perturbation is kept in a ball, as the paper has it: unbounded, as in the release's last version, the search runs away
    where the first steps succeed. It may lead out of [0, 1]: clipping would stop its gradient at black and white.
    """

    rounds: int = 5
    """Perturbations, each unlearned in one pass over the images."""
    learning_rate: float = 1e-3
    """Adam's, for the weights (the release's, on a small VGG; BackdoorBench takes 1e-4 for its far wider PreActResNet-18)."""
    batch: int = 100
    """Images per step."""
    terms: int = 5
    """Of the series for the hypergradient: the release's K."""
    inner_step: float = 0.1
    """Step of the map whose fixed point is the worst perturbation (the release's)."""
    search_rate: float = 10.0
    """SGD's, for the perturbation; in units of pixels, 0 to 1 (the release's)."""
    radius: float = 0.18
    """Of the ball, as the root of the mean square over the pixels: a length of 10 for CIFAR-10 (the release's notebook)."""
    penalty: float = 0.001
    """Weight of the perturbation's squared length (the release's)."""
    stamped: float = 0.01
    """Share of a batch that wears the perturbation, at least one image (the release's)."""

    name: ClassVar[str] = "i-bau"
    source: ClassVar[str] = "Zeng et al. 2022 (I-BAU), and the authors' release"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("rounds", "batch", "terms"),
            positive=("learning_rate", "inner_step", "search_rate", "radius"),
            not_negative=("penalty",),
            shares=("stamped",),
        )

    def remove(self, work: Work) -> Classifier:
        """Search, unlearn, and again.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        optimizer = torch.optim.Adam(work.classifier.parameters(), lr=self.learning_rate)
        watch = work.watch(self.name, self.rounds, slower(self.learning_rate), unit="round", looks=self.rounds)
        for number in range(self.rounds):
            perturbation = self._search(work)
            look = partial(self._look, work, perturbation)
            for share, loss in self._unlearn(work, perturbation, optimizer):
                watch.at((number + share) / self.rounds, loss, look)
                work.on_progress(watch.done, watch.note)
        return work.classifier

    def _look(self, work: Work, perturbation: Tensor, number: int, loss: float) -> float:
        return work.look(work.classifier, self.name, number, length=round(float(perturbation.norm()), 3), loss=round(loss, 4))

    def _search(self, work: Work) -> Float[Tensor, "1 c h w"]:
        """What changes the model's own answers most, from zero, in one pass over the images."""
        perturbation = torch.zeros(1, *work.classifier.image_shape, device=work.device)
        longest = self.radius * math.sqrt(perturbation.numel())
        for _, images, _ in work.batches(1, self.batch, varied=False):
            with torch.no_grad():
                answers = work.logits(work.classifier, images).argmax(1)
            perturbation.requires_grad_()
            loss = self._inner(work.logits(work.classifier, images + perturbation), answers, perturbation)
            moved = perturbation.detach() - self.search_rate * torch.autograd.grad(loss, perturbation)[0]
            perturbation = moved * (longest / moved.norm().clamp(min=longest))
        return perturbation

    def _unlearn(self, work: Work, perturbation: Tensor, optimizer: torch.optim.Optimizer) -> Iterator[tuple[float, Tensor]]:
        """One pass; yields the share of it that is done and the loss of a batch, left on its device."""
        batches = work.batches(1, self.batch, varied=False)
        weights = list(work.classifier.parameters())
        first: tuple[Tensor, Tensor] | None = None
        for share, images, labels in batches:
            # The perturbation's own problem stays the same within a round, as in the release.
            first = first or (images, labels)
            seen, truth = first
            wearing = self._wearing(len(images), work)

            def inner(delta: Tensor, seen: Tensor = seen, truth: Tensor = truth) -> Tensor:
                return self._inner(work.classifier(seen + delta), truth, delta)

            def outer(delta: Tensor, images: Tensor = images, labels: Tensor = labels, wearing: Tensor = wearing) -> Tensor:
                return F.cross_entropy(work.classifier(images + wearing * delta), labels)

            loss, gradients = hypergradient(inner, outer, perturbation, weights, self.inner_step, self.terms)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            yield share, loss

    def _inner(self, logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"], perturbation: Tensor) -> Float[Tensor, ""]:
        """What the worst perturbation minimises."""
        return self.penalty * perturbation.square().sum() - F.cross_entropy(logits, labels)

    def _wearing(self, count: int, work: Work) -> Float[Tensor, "n 1 1 1"]:
        """1 for the images that wear the perturbation, else 0."""
        chosen = torch.randperm(count, generator=work.generator)[: max(int(self.stamped * count), 1)]
        return torch.zeros(count).index_fill_(0, chosen, 1.0).view(-1, 1, 1, 1).to(work.device)


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    solution: Tensor,
    weights: Sequence[Tensor],
    step: float,
    terms: int,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """Outer loss at the inner problem's solution, and its whole derivative by the weights, on which the solution hangs too.

    The solution is the fixed point of Φ(δ, θ) = δ - step ∇δ inner. Of the series (I - ∂δΦ)⁻¹ = Σ (∂δΦ)ᵏ the first terms are
    taken (Zeng et al. 2022, after the fixed-point method of Grazzi et al. 2020).

    Args:
        inner: of the solution; differentiable twice, by it and by the weights.
        outer: likewise, once.
        solution: δ, any shape.
        weights: θ.
        step: above 0; the series converges where it is below 2 over the inner problem's largest curvature.
        terms: at least 1; 1 takes ∂δΦ for zero.
    """
    solution = solution.detach().requires_grad_()
    loss = outer(solution)
    pull, *direct = torch.autograd.grad(loss, [solution, *weights], materialize_grads=True)
    (slope,) = torch.autograd.grad(inner(solution), solution, create_graph=True)
    series = pull
    for _ in range(terms - 1):
        (curved,) = torch.autograd.grad(slope, solution, series, retain_graph=True, materialize_grads=True)
        series = pull + series - step * curved
    indirect = torch.autograd.grad(slope, weights, series, materialize_grads=True)
    return loss.detach(), [d - step * i for d, i in zip(direct, indirect, strict=True)]
