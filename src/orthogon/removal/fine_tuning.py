"""Standard fine-tuning: go on training, on clean images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from orthogon.classifier import Classifier
from orthogon.ranges import require
from orthogon.recipe import TrainingSettings
from orthogon.removal.remover import Remover, Work
from orthogon.training import Epoch, fit


@dataclass(frozen=True)
class FineTuning(Remover):
    """Train on with SGD, on crops, mirrored where that is right, partly covered (DECK, appendix III-B)."""

    epochs: int = 20
    """Passes over the clean images."""
    learning_rate: float = 0.01
    """The peak."""
    batch: int = 128
    """Images per step."""
    cutout: float = 0.25
    """Side of the covered square, as a share of the image's side; the only remover with one of its own."""

    name: ClassVar[str] = "fine-tuning"
    source: ClassVar[str] = "MOTH, section VI-B; DECK, appendix III-B"

    def __post_init__(self) -> None:
        require(self, counts=("epochs", "batch"), positive=("learning_rate",), shares=("cutout",))

    def remove(self, work: Work) -> Classifier:
        """Fine-tuned."""
        varied = {"shift": work.augmentation.shift, "flip": work.augmentation.flip, "cutout": self.cutout}
        recipe = TrainingSettings(epochs=self.epochs, learning_rate=self.learning_rate, batch=self.batch, **varied)

        def told(share: float, epoch: Epoch | None) -> None:
            work.on_progress(share, "" if epoch is None else f"epoch {epoch.number}: loss {epoch.loss:.3f}")

        seed = int(torch.randint(2**62, (), generator=work.generator))
        fit(work.classifier, work.images, recipe, torch.Generator().manual_seed(seed), on_progress=told)
        work.look(work.classifier, self.name, self.epochs)
        return work.classifier
