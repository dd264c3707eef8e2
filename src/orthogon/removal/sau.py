"""SAU: unlearn the adversarial examples that fool the model that came and the model in repair alike.

Wei et al. 2023 bound the risk of a backdoor from above by the risk of adversarial examples that both models take for the same
wrong class: a stamped image is one of them for as long as the backdoor lives. Each batch is moved to such examples, and the
model is trained to call them anything but what the poisoned model calls them.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work, slower


@dataclass(frozen=True)
class SAU(Remover):
    """Shared adversarial unlearning: unlearn what fools the model that came and the one in repair into the same answer.

    Images are taken as they are, BatchNorm and dropout stay in evaluation mode, as in the release of Wei et al. 2023. A
    perturbed image may leave [0, 1], as in their release.
    """

    rounds: int = 20
    """Passes over the images (the release: 100)."""
    learning_rate: float = 1e-4
    """Adam's (the release's)."""
    batch: int = 50
    """Images per step; a fifth of the release's 256, so that a fifth of its rounds makes about as many steps."""
    bound: float = 0.2
    """Largest change of a pixel, 0 to 1; every search starts with all pixels changed by it (the release's)."""
    step: float = 0.2
    """Change of a pixel per step of the search (the release's)."""
    steps: int = 5
    """Of the search, at most (the release's)."""
    fooling: float = 0.01
    """β₁: weight, in the search, of fooling each of the two models (the release's)."""
    agreement: float = 1.0
    """β₂: weight, in the search, of the two models giving the same answer (the release's)."""
    clean: float = 1.0
    """λ₁: weight of the loss on clean images (the release's)."""
    adversarial: float = 0.0
    """λ₂: weight of the loss on perturbed images with their true labels (the release's: none)."""
    shared: float = 1.0
    """λ₃: weight of the answers that the two models share (the release's)."""

    name: ClassVar[str] = "sau"
    source: ClassVar[str] = "Wei et al. 2023 (SAU), and the authors' release in BackdoorBench"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("rounds", "batch", "steps"),
            positive=("learning_rate", "step"),
            not_negative=("fooling", "agreement", "clean", "adversarial", "shared"),
            shares=("bound",),
        )

    def remove(self, work: Work) -> Classifier:
        """Search and unlearn, batch by batch.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        poisoned = copy.deepcopy(work.classifier).requires_grad_(False)
        optimizer = torch.optim.Adam(work.classifier.parameters(), lr=self.learning_rate)
        watch = work.watch(self.name, self.rounds, slower(self.learning_rate), unit="round", looks=self.rounds)
        for share, images, labels in work.batches(self.rounds, self.batch, varied=False):
            perturbed = images + self._search(work, poisoned, images, labels)
            loss = self._objective(work, poisoned, images, perturbed, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watch.at(share, loss)
            work.on_progress(share, watch.note)
        return work.classifier

    def _search(
        self, work: Work, poisoned: Classifier, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n c h w"]:
        """Perturbations, within the bound, that both models should take for the same wrong class."""
        with torch.no_grad():
            answers = [work.logits(model, images).argmax(1) for model in (work.classifier, poisoned)]
        found = torch.full_like(images, self.bound)
        left = torch.arange(len(images), device=images.device)
        for _ in range(self.steps):
            delta = found[left].requires_grad_()
            own, theirs = (work.logits(model, images[left] + delta) for model in (work.classifier, poisoned))
            fooled, alike = own.argmax(1) != answers[0][left], theirs.argmax(1) != answers[1][left]
            shared = fooled & alike & (own.argmax(1) == theirs.argmax(1))
            loss = self._search_loss(own, theirs, labels[left], fooled, alike)[~shared].sum()
            # An image that is shared has no gradient left: it stays where it is, and costs nothing any more.
            (gradient,) = torch.autograd.grad(loss, delta)
            found[left] = (delta.detach() - self.step * gradient.sign()).clamp(-self.bound, self.bound)
            left = left[~shared]
            if len(left) == 0:
                break
        return found

    def _search_loss(
        self,
        own: Float[Tensor, "n classes"],
        theirs: Float[Tensor, "n classes"],
        labels: Int64[Tensor, " n"],
        fooled: Bool[Tensor, " n"],
        alike: Bool[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """What the perturbation of each image makes small; a model that is fooled already asks for nothing more."""
        losses = [F.cross_entropy(logits, labels, reduction="none") for logits in (own, theirs)]
        right = ~fooled * losses[0] + ~alike * losses[1]
        return self.agreement * jensen_shannon(own, theirs) - self.fooling * right / 2

    def _objective(
        self,
        work: Work,
        poisoned: Classifier,
        images: Float[Tensor, "n c h w"],
        perturbed: Float[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
    ) -> Float[Tensor, ""]:
        """What the weights make small."""
        both = torch.cat([images, perturbed])
        with torch.no_grad():
            before, taken = work.logits(poisoned, both).argmax(1).chunk(2)
        clean, moved = work.logits(work.classifier, both).chunk(2)
        fooled = (taken != labels) & (taken != before)
        risk = (fooled * avoidance(moved, taken)).mean()
        loss = self.clean * F.cross_entropy(clean, labels) + self.shared * risk
        return loss + self.adversarial * F.cross_entropy(moved, labels) if self.adversarial else loss


def jensen_shannon(one: Float[Tensor, "n classes"], other: Float[Tensor, "n classes"]) -> Float[Tensor, " n"]:
    """Jensen-Shannon divergence of the probabilities that two logits stand for, in nats: 0 (alike) to ln 2."""
    first, second = one.log_softmax(1), other.log_softmax(1)
    middle = torch.logaddexp(first, second) - math.log(2)
    return 0.5 * (first.exp() * (first - middle) + second.exp() * (second - middle)).sum(1)


def avoidance(logits: Float[Tensor, "n classes"], classes: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """-log(1 - p) of one class per row, 0 or more.

    Computed from the other classes' logits, so that it still has a gradient where p is 1 in floating point; the release's form
    has none there, which is where a backdoor is.
    """
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return logits.logsumexp(1) - others.logsumexp(1)
