"""MCR: leave the poisoned model along a curve of accurate models, and stop where both ends are far.

Two trained models are joined by a curve in weight space on which the loss on clean images stays low (Garipov et al. 2018). The
models within forget what only the ends share with their training sets: the backdoor (Zhao et al. 2020). Here the other end is
a fine-tuned copy, since one model is all that there is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.removal.fine_tuning import FineTuning
from orthogon.removal.norms import measure_statistics
from orthogon.removal.remover import Remover, Work, set_rate, slower


@dataclass(frozen=True)
class MCR(Remover):
    """Mode connectivity repair: a curve of good models from the one that came to a fine-tuned copy, and a model from its middle.

    The curve is a quadratic Bézier one; BatchNorm normalises by the batch while it is trained. Of the models within the
    curve, the one nearest to its middle is taken whose accuracy on the held-out images is within the bound; their BatchNorm
    statistics are measured anew first. If none is, the most accurate one.
    """

    epochs: int = 100
    """Passes over the images for the curve (the release's)."""
    learning_rate: float = 0.01
    """SGD's (the release's); held for half of the training, then falling to a hundredth of it (Garipov et al. 2018)."""
    momentum: float = 0.9
    """SGD's (the release's)."""
    weight_decay: float = 1e-4
    """Of the weights on the curve, not of the bend itself (the release's)."""
    batch: int = 128
    """Images per step (the release's)."""
    fine_tuning_epochs: int = 20
    """Passes over the images for the other end (BackdoorBench: 100; standard fine-tuning here: 20)."""
    points: int = 9
    """Models within the curve that are looked at, evenly spaced."""
    bound: float = 0.05
    """Largest loss of accuracy on the held-out images, against the poisoned model."""

    name: ClassVar[str] = "mcr"
    source: ClassVar[str] = "Zhao et al. 2020 (MCR); the curve: Garipov et al. 2018"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "batch", "fine_tuning_epochs", "points"),
            positive=("learning_rate",),
            not_negative=("weight_decay",),
            shares=("bound",),
            below_one=("momentum",),
        )

    def remove(self, work: Work) -> Classifier:
        """Fine-tune a copy, train the curve between, choose a point of it.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        least = work.look(work.classifier, "poisoned", 0) - self.bound
        curve = Curve(_weights(work.classifier), _weights(self._other_end(work)))
        self._train(work, curve)
        return self._choose(work, curve, least)

    def _other_end(self, work: Work) -> Classifier:
        """Fine-tuned."""
        own = replace(
            work,
            classifier=copy.deepcopy(work.classifier),
            on_progress=lambda share, note: work.on_progress(0.15 * share, note),
        )
        return FineTuning(epochs=self.fine_tuning_epochs).remove(own)

    def _train(self, work: Work, curve: Curve) -> None:
        """Move the bend to where a random point of the curve has a small loss."""
        optimizer = torch.optim.SGD(curve.bend, lr=self.learning_rate, momentum=self.momentum)
        weights = list(work.classifier.parameters())
        watch = work.watch("curve", self.epochs, slower(self.learning_rate))

        def look(epoch: int, _loss: float) -> float:
            return self._look(work, curve, 0.5, "curve", epoch)

        for share, images, labels in work.batches(self.epochs, self.batch):
            t = float(torch.rand((), generator=work.generator))
            curve.put(t, weights)
            loss = F.cross_entropy(work.logits(work.classifier.train(), images), labels)
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
            for bend, weight, gradient in zip(curve.bend, weights, gradients, strict=True):
                bend.grad = curve.share(t) * (gradient + self.weight_decay * weight.detach())
            set_rate(optimizer, self.learning_rate * rate_share(share))
            optimizer.step()
            watch.at(share, loss, look)
            work.on_progress(0.15 + 0.8 * share, watch.note)
        work.classifier.eval()

    def _choose(self, work: Work, curve: Curve, least: float) -> Classifier:
        """A copy of the model at the point that the rule takes."""
        ts = [(number + 1) / (self.points + 1) for number in range(self.points)]
        found: dict[float, tuple[float, Classifier]] = {}
        for number, t in enumerate(ts, 1):
            seen = self._look(work, curve, t, "choosing", number)
            found[t] = seen, copy.deepcopy(work.classifier)
            work.on_progress(0.95 + 0.05 * number / self.points, f"accuracy {seen:.1%} at t = {t:.2f}")
        t, enough = chosen({t: seen for t, (seen, _) in found.items()}, least)
        if not enough:
            work.notes.append(f"no model on the curve keeps the accuracy within {self.bound:.0%}: the most accurate was taken")
        work.notes.append(f"took t = {t:.2f} of the curve from the poisoned model (0) to the fine-tuned one (1)")
        return found[t][1]

    def _look(self, work: Work, curve: Curve, t: float, stage: str, step: int) -> float:
        """Accuracy of a point with statistics of its own; the model is left there."""
        curve.put(t, list(work.classifier.parameters()))
        measure_statistics(work.classifier, work, self.batch)
        return work.look(work.classifier, stage, step, t=round(t, 6))


class Curve:
    """(1 - t)² start + 2 t (1 - t) bend + t² end, in weight space; the bend starts halfway (Garipov et al. 2018)."""

    def __init__(self, start: Sequence[Tensor], end: Sequence[Tensor]) -> None:
        self._start, self._end = start, end
        self.bend = [((s + e) / 2).requires_grad_() for s, e in zip(start, end, strict=True)]

    def put(self, t: float, weights: Sequence[Tensor]) -> None:
        """Set weights to the curve's at t, 0 to 1."""
        with torch.no_grad():
            for weight, start, bend, end in zip(weights, self._start, self.bend, self._end, strict=True):
                weight.copy_((1 - t) ** 2 * start + self.share(t) * bend + t**2 * end)

    @staticmethod
    def share(t: float) -> float:
        """Derivative of the curve by its bend."""
        return 2 * t * (1 - t)


def chosen(accuracies: Mapping[float, float], least: float) -> tuple[float, bool]:
    """Of the points t of a curve, the nearest to the middle that is accurate enough; of two, the more accurate.

    Returns:
        It, and whether there is one; where there is none, the most accurate of all.
    """
    good = [t for t, accuracy in accuracies.items() if accuracy >= least]
    if not good:
        return max(accuracies, key=lambda t: accuracies[t]), False
    return min(good, key=lambda t: (round(abs(t - 0.5), 6), -accuracies[t])), True


def rate_share(progress: float) -> float:
    """Share of the learning rate at a share of the steps: 1 for half of them, straight down to 0.01 at nine tenths."""
    return min(1.0, max(0.01, 1 - 0.99 * (progress - 0.5) / 0.4))


def _weights(classifier: Classifier) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in classifier.parameters()]
