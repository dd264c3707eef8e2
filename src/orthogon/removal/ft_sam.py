"""FT-SAM: fine-tuning that looks for flat minima, which moves the large weights that backdoors live in.

Plain fine-tuning hardly changes a model that fits its clean images already: their loss has no gradient left. Sharpness-aware
minimisation takes the gradient at the worst weights near by, where the loss is high; measured relative to the weights' own
size, "near by" reaches furthest for the large weights, and so for the neurons that a trigger sets off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work, set_rate

Loss: TypeAlias = Callable[[Float[Tensor, "b classes"]], Float[Tensor, ""]]
"""Of the logits of a batch."""
Task: TypeAlias = Callable[[Float[Tensor, "b c h w"], Int64[Tensor, " b"]], tuple[Float[Tensor, "b c h w"], Loss]]
"""From a batch in [0, 1] and its labels to the images to train on and what their logits cost."""


@dataclass(frozen=True)
class FTSAM(Remover):
    """Fine-tune with adaptive sharpness-aware minimisation, two passes per step.

    BatchNorm normalises by the batch in both passes; its running statistics follow the first one only, that of the weights
    that will be kept.
    """

    epochs: int = 100
    """Passes over the clean images (the release's configuration)."""
    radius: float = 2.0
    """ρ: how far the worst weights may be, in units of the weights' own size (the release's configuration for CIFAR-10)."""
    adaptive: bool = True
    """Measure the distance relative to each weight's size, as the paper does; False: plain SAM, which needs a far smaller ρ."""
    learning_rate: float = 0.01
    """At first; it falls to 0 along half a cosine. In the release it rises again every 10 epochs: steps are counted as epochs."""
    batch: int = 256
    """Images per step (the release's configuration)."""
    momentum: float = 0.9
    """Of SGD (the release's configuration)."""
    weight_decay: float = 5e-4
    """Of SGD, on all parameters (the release's configuration)."""
    label_smoothing: float = 0.1
    """Share of a label that is spread over all classes (the release's configuration)."""

    name: ClassVar[str] = "ft-sam"
    source: ClassVar[str] = (
        "Zhu et al. 2023, Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization; BackdoorBench"
    )

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "batch"),
            positive=("radius", "learning_rate"),
            not_negative=("weight_decay",),
            below_one=("momentum", "label_smoothing"),
        )

    def remove(self, work: Work) -> Classifier:
        """Fine-tuned towards a flat minimum.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        return self.flattened(work, lambda images, labels: (images, partial(self.clean_loss, labels=labels)))

    def clean_loss(self, logits: Float[Tensor, "b classes"], labels: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Cross entropy with smoothed labels."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def flattened(self, work: Work, task: Task) -> Classifier:
        """Brought to a flat minimum of whatever loss a task makes of each batch.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        classifier = work.classifier
        classifier.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.SGD(
            classifier.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        told = f"with a learning rate of {self.learning_rate} and a radius of {self.radius}; halve the radius"
        watch = work.watch(self.name, self.epochs, told)
        for share, images, labels in work.batches(self.epochs, self.batch):
            set_rate(optimizer, self.learning_rate * (1 + math.cos(math.pi * watch.done)) / 2)
            watch.at(share, self._step(work, optimizer, *task(images, labels)))
            work.on_progress(share, watch.note)
        return classifier.eval()

    def _step(self, work: Work, optimizer: torch.optim.SGD, images: Float[Tensor, "b c h w"], loss: Loss) -> Float[Tensor, ""]:
        """Move the weights along the gradient that the loss has at the worst weights near by; the loss where they were."""
        before = self._gradient(work, optimizer, images, loss)
        with statistics_kept(work.classifier), worst_nearby(work.classifier.parameters(), self.radius, self.adaptive):
            self._gradient(work, optimizer, images, loss)
        optimizer.step()
        return before

    def _gradient(self, work: Work, optimizer: torch.optim.SGD, images: Tensor, loss: Loss) -> Float[Tensor, ""]:
        optimizer.zero_grad(set_to_none=True)
        value = loss(work.logits(work.classifier.train(), images))
        value.backward()
        return value.detach()


@contextmanager
def worst_nearby(parameters: Iterable[nn.Parameter], radius: float, adaptive: bool) -> Iterator[None]:
    """Inside, the weights w are w + ε, the worst near by to first order; afterwards they are w again, bit by bit.

    ε = ρ·T²g / ‖T·g‖, which solves max ε·g under ‖ε/T‖ ≤ ρ over all parameters together (Kwon et al. 2021, ASAM).

    Args:
        parameters: those without a gradient g stay where they are.
        radius: ρ.
        adaptive: T = |w|; else T = 1.
    """
    moved = [(p, p.grad) for p in parameters if p.grad is not None]
    kept = [p.detach().clone() for p, _ in moved]
    with torch.no_grad():
        scales = [p.abs() if adaptive else torch.ones_like(p) for p, _ in moved]
        slopes = [scale * gradient for scale, (_, gradient) in zip(scales, moved, strict=True)]
        norm = torch.stack([slope.norm() for slope in slopes]).norm().clamp(min=1e-12)
        for (p, _), scale, slope in zip(moved, scales, slopes, strict=True):
            p.add_(scale * slope * (radius / norm))
    try:
        yield
    finally:
        with torch.no_grad():
            for (p, _), before in zip(moved, kept, strict=True):
                p.copy_(before)


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms in training mode normalise by the batch as ever, but their running statistics stay as they are."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
