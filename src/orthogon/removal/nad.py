"""NAD: distil where a fine-tuned copy looks at into the poisoned model, so that it stops looking at the trigger."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.layers import outputs, require_layers, stages
from orthogon.ranges import require
from orthogon.removal.remover import Remover, Work, set_rate, slower


@dataclass(frozen=True)
class NAD(Remover):
    """Neural attention distillation: a fine-tuned copy teaches, the poisoned model learns, its attention maps included.

    The maps are those of the last three stages, which the notes name; `Work.layers` may name three others, in order. The
    student's BatchNorms normalise by the batch, the teacher's by their running statistics.
    """

    epochs: int = 20
    """Passes of the student over the clean images (the release; the paper's main tables have 10)."""
    teacher_epochs: int = 10
    """Passes of the teacher, which is fine-tuned as the student is, without the maps (the release's README: 5 to 10)."""
    betas: tuple[float, float, float] = (500.0, 1000.0, 1000.0)
    """Weight of the maps' distances in the loss, from the earliest of the three stages to the last."""
    power: float = 2.0
    """p: of the absolute activations that a map sums over the channels."""
    learning_rate: float = 0.1
    """Of the first epochs (the release)."""
    first_epochs: int = 2
    """How many these are (the release)."""
    later_rate: float = 0.01
    """Learning rate of the other epochs (the release)."""
    batch: int = 64
    """Images per step (the release)."""
    momentum: float = 0.9
    """Of Nesterov's SGD (the release)."""
    weight_decay: float = 1e-4
    """Of SGD, on all parameters (the release)."""

    name: ClassVar[str] = "nad"
    takes_layers: ClassVar[bool] = True
    source: ClassVar[str] = "Li et al. 2021, Neural Attention Distillation, section 3; its release"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "teacher_epochs", "batch"),
            positive=("power", "learning_rate", "later_rate"),
            not_negative=("first_epochs", "weight_decay"),
            below_one=("momentum",),
        )

    def remove(self, work: Work) -> Classifier:
        """The student.

        Raises:
            ValueError: feature maps of fewer than three sizes, not three layers named, or one that gives no maps.
            TrainingDiverged: the loss became NaN or infinite.
        """
        layers = self._layers(work)
        work.notes.append(f"attention maps of {', '.join(layers)}")
        teacher = copy.deepcopy(work.classifier)
        self._train(work, teacher, None, layers)
        teacher.eval().requires_grad_(False)
        self._train(work, work.classifier, teacher, layers)
        return work.classifier.eval()

    def _layers(self, work: Work) -> list[str]:
        wanted = len(self.betas)
        layers = list(work.layers) or stages(work.classifier, wanted)
        require_layers(work.classifier, layers)
        if len(layers) != wanted:
            raise ValueError(f"NAD takes the maps of {wanted} layers, one for each beta; {len(layers)} are named: {layers}")
        probe = work.images.select(torch.arange(1)).floats(work.device)
        with outputs(work.classifier, layers) as seen, torch.no_grad():
            work.classifier.eval()(probe)
        for layer in layers:
            shape = tuple(getattr(seen.get(layer), "shape", ()))
            if len(shape) != 4:
                raise ValueError(f"{layer!r} gives {shape or 'no tensor'}, attention needs feature maps (n, c, h, w)")
        return layers

    def _train(self, work: Work, student: Classifier, teacher: Classifier | None, layers: list[str]) -> None:
        """Fine-tune a classifier in place; after a teacher's maps where there is one."""
        stage, epochs = ("teacher", self.teacher_epochs) if teacher is None else ("student", self.epochs)
        begun = 0 if teacher is None else self.teacher_epochs
        student.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.SGD(
            student.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )
        watch = work.watch(stage, epochs, slower(self.learning_rate), classifier=student)
        for share, images, labels in work.batches(epochs, self.batch):
            # `done` is a share of steps: an epoch's first step may fall short of it by rounding
            epoch = int(watch.done * epochs + 1e-6)
            set_rate(optimizer, self.learning_rate if epoch < self.first_epochs else self.later_rate)
            loss = self._loss(work, student.train(), teacher, layers, images, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            watch.at(share, loss)
            work.on_progress((begun + share * epochs) / (self.teacher_epochs + self.epochs), watch.note)

    def _loss(
        self,
        work: Work,
        student: Classifier,
        teacher: Classifier | None,
        layers: list[str],
        images: Float[Tensor, "b c h w"],
        labels: Int64[Tensor, " b"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy, and the weighted distances of the maps."""
        with outputs(student, layers) as learned:
            loss = F.cross_entropy(work.logits(student, images), labels)
        if teacher is None:
            return loss
        with outputs(teacher, layers) as taught, torch.no_grad():
            work.logits(teacher, images)
        for beta, layer in zip(self.betas, layers, strict=True):
            loss = loss + beta * F.mse_loss(attention(learned[layer], self.power), attention(taught[layer], self.power))
        return loss


def attention(maps: Float[Tensor, "n c h w"], power: float = 2.0) -> Float[Tensor, "n h w"]:
    """Where a layer looks at: Σ over channels of |activation|^power, of length 1 over the positions."""
    summed = maps.float().abs().pow(power).sum(1)
    return summed / (summed.flatten(1).norm(dim=1)[:, None, None] + 1e-6)
