"""Unlearning: teach a model the true classes of images that carry triggers which were found in it."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.evaluate import Stamp
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work, slower


@dataclass(frozen=True)
class Unlearner(Remover, ABC):
    """A remover that finds triggers first and unlearns them then (Wang et al. 2019, section VI-C).

    BatchNorm normalises by the batch and goes on learning its statistics, as in any fine-tuning.
    """

    epochs: int = 1
    """Passes over the clean images of the unlearning (section VI-C)."""
    share: float = 0.2
    """Of the images, how many carry a trigger, 0 to 1 (section VI-C)."""
    learning_rate: float = 0.0025
    """Of SGD, constant; the paper goes on with the optimiser of the model's training, which nobody knows here. Fine-tuning's 0.01
    for batches of 128 (DECK, appendix III-B) in proportion to the batch: on a small VGG with a planted patch, 0.01 itself took 18
    points of held-out accuracy."""
    momentum: float = 0.9
    """Of SGD."""
    batch: int = 32
    """Images per step (the release's); a larger one leaves the only epoch too few steps."""

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "batch"),
            positive=("learning_rate", "share"),
            shares=("share",),
            below_one=("momentum",),
        )

    def unlearn(self, work: Work, stamps: Sequence[Stamp], begun: float) -> Classifier:
        """Train on clean images, some of which carry one of the triggers, with true labels.

        Args:
            work: its classifier is changed.
            stamps: put a trigger on a batch; each stamped image gets any one of them.
            begun: share of the removal that is done already, 0 to 1.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        classifier = work.classifier
        optimizer = torch.optim.SGD(classifier.network.parameters(), lr=self.learning_rate, momentum=self.momentum)
        steps = self.epochs * max(1, len(work.images) // self.batch)
        watch = work.watch("unlearning", steps, slower(self.learning_rate), unit="step")
        for share, images, labels in work.batches(self.epochs, self.batch):
            optimizer.zero_grad(set_to_none=True)
            images = stamped_in_part(images, stamps, self.share, work.generator)
            loss = F.cross_entropy(work.logits(classifier.train(), images), labels)
            loss.backward()
            optimizer.step()
            watch.at(share, loss)
            work.on_progress(begun + (1 - begun) * share, f"unlearning {len(stamps)} triggers")
        return classifier.eval()


def stamped_in_part(
    images: Float[Tensor, "n c h w"], stamps: Sequence[Stamp], share: float, generator: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """The images, each of which carries with the probability `share` one of the stamps, each stamp alike."""
    chosen = torch.rand(len(images), generator=generator) < share
    kinds = torch.randint(len(stamps), (len(images),), generator=generator)
    stamped = images.clone()
    for kind, stamp in enumerate(stamps):
        mine = (chosen & (kinds == kind)).nonzero().flatten().to(images.device)
        if len(mine):
            stamped[mine] = stamp(images[mine])
    return stamped
