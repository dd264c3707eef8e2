"""AugSAM: towards flat minima on images that are changed as backdoors change them, with the original's answers beside the labels.

FT-SAM looks for flat minima on clean images. It forgets what covers whole images, and hardly touches a patch that lies on a
feature of the target (clean-label attacks), as nothing on clean images speaks against it. Images that are bent, recoloured,
mixed and pasted over do. They cost accuracy, because a few thousand images are few; the original's answers to the unchanged half
of a batch give some of it back. They carry no backdoor, as no trigger is on clean images.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.hardening.trainer import divergence
from orthogon.ranges import require
from orthogon.removal.ft_sam import FTSAM, Loss
from orthogon.removal.remover import Work
from orthogon.removal.variations import varied


@dataclass(frozen=True)
class AugSAM(FTSAM):
    """FT-SAM in fewer epochs at a higher rate, with half of each batch changed at random, and the original as a teacher."""

    epochs: int = 30
    """Passes over the clean images, at least; 60 gained nothing where 30 were 240 updates."""
    least_updates: int = 240
    """Of few images there are more passes, until the weights are updated so often."""
    learning_rate: float = 0.05
    """At first; it falls to 0 along half a cosine. 0.02 left more of a backdoor; 0.1 cost 7 points of accuracy."""
    changed: float = 0.5
    """Share of each batch that is changed."""
    chance: float = 0.5
    """Of each of the four changes (see variations.py) for an image of that share."""
    distillation: float = 0.5
    """Weight of the original's answers to the images that are not changed; 0: labels alone."""
    temperature: float = 2.0
    """That softens both models' answers."""

    name: ClassVar[str] = "aug-sam"
    source: ClassVar[str] = "orthogon: FT-SAM (Zhu et al. 2023) on strongly varied images, with distillation from the original"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, positive=("temperature",), not_negative=("least_updates", "distillation"), shares=("changed", "chance"))

    def remove(self, work: Work) -> Classifier:
        """Fine-tuned towards a flat minimum of the loss on changed and unchanged images.

        Raises:
            TrainingDiverged: the loss became NaN or infinite.
        """
        teacher = copy.deepcopy(work.classifier).requires_grad_(False).eval()
        teacher.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

        def task(images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b c h w"], Loss]:
            kept = len(images) - round(self.changed * len(images))
            changed = varied(images[kept:], work.generator, self.chance)
            taught = work.logits(teacher, images[:kept]) if self.distillation and kept else None

            def loss(logits: Float[Tensor, "b classes"]) -> Float[Tensor, ""]:
                value = self.clean_loss(logits, labels)
                if taught is not None:
                    value = value + self.distillation * divergence(logits[:kept], taught, self.temperature)
                return value

            return torch.cat([images[:kept], changed]), loss

        per_epoch = max(1, len(work.images) // self.batch)
        return replace(self, epochs=max(self.epochs, math.ceil(self.least_updates / per_epoch))).flattened(work, task)
