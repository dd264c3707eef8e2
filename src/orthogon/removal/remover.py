"""What a remover has to offer, and what it works with; judging the result is never its own business."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.evaluate import accuracy
from orthogon.images import LabelledImages, shuffled
from orthogon.machine import device_of, fast_precision
from orthogon.recipe import TrainingSettings
from orthogon.training import TrainingDiverged, augment

LOOKS = 10
"""At the held-out images in the course of a stage."""


@dataclass(frozen=True)
class Look:
    """One look at the model on the held-out clean images while a remover works."""

    stage: str
    """What was just done: "fine-tuning", "pruning", …"""
    step: int
    """How often, in the stage's own unit: epochs, pruned channels, …"""
    accuracy: float
    """On the held-out clean images, 0 to 1."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the stage has to say besides, JSON-like."""


@dataclass(eq=False)
class Work:
    """Clean images and a model to repair; all that a remover ever sees.

    A remover knows neither the trigger nor the target, and no test image.
    """

    classifier: Classifier
    """A copy, in evaluation mode: to be changed at will."""
    images: LabelledImages
    """Clean, to learn from."""
    held_out: LabelledImages
    """Clean, to choose thresholds by; never learned from."""
    generator: torch.Generator
    """Every draw comes from it; on the CPU."""
    augmentation: TrainingSettings = field(default_factory=TrainingSettings)
    """Its shift, flip and (but in fine-tuning) cutout say how a batch is varied; nothing else of it is used."""
    layers: tuple[str, ...] = ()
    """Modules that the user names for a method that works on some; none: the method chooses."""
    on_progress: Callable[[float, str], None] = lambda share, note: None
    """Told now and then the share done (0 to 1) and a note."""
    history: list[Look] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader has to know: which layer was taken, that nothing was found."""

    @property
    def device(self) -> torch.device:
        """Where everything happens."""
        return device_of(self.classifier)

    def look(self, classifier: Classifier, stage: str, step: int, **facts: Any) -> float:
        """Accuracy of a classifier on the held-out images, 0 to 1; it goes into the history."""
        seen = accuracy(classifier, self.held_out).accuracy
        self.history.append(Look(stage, step, seen, facts))
        return seen

    def watch(
        self,
        stage: str,
        steps: int,
        advice: str,
        *,
        unit: str = "epoch",
        looks: int = LOOKS,
        classifier: Classifier | None = None,
    ) -> Watch:
        """Looks now and then at a stage that trains, which is stopped where its loss is not finite.

        Args:
            stage: as the history names it.
            steps: of the whole stage, in its own unit.
            advice: for the error: what the stage was told, and what to try, as `slower` words it.
            unit: of the steps, in the singular.
            looks: of the whole stage, evenly.
            classifier: that is looked at; None: the work's own.
        """
        return Watch(self, classifier or self.classifier, stage, steps, advice, unit, looks, note=stage)

    def batches(
        self, epochs: int, size: int, *, varied: bool = True
    ) -> Iterator[tuple[float, Float[Tensor, "b c h w"], Int64[Tensor, " b"]]]:
        """Shuffled batches of the images to learn from, in [0, 1], on the device; a last short one is left out.

        Args:
            epochs: passes over the images.
            size: images per batch; all of them where there are fewer.
            varied: shifted, mirrored and covered as `augmentation` says.

        Yields:
            The share done with this batch (0 to 1), the batch and its labels.
        """
        pixels, labels = self.images.pixels.to(self.device), self.images.labels.to(self.device)
        size = min(size, len(labels))
        per_epoch = len(labels) // size
        for epoch in range(epochs):
            order = shuffled(torch.arange(len(labels)), self.generator)
            for step in range(per_epoch):
                index = order[step * size : (step + 1) * size].to(self.device)
                batch = pixels[index].float().div_(255)
                batch = augment(batch, self.augmentation, self.generator) if varied else batch
                yield (epoch * per_epoch + step + 1) / (epochs * per_epoch), batch, labels[index]

    def logits(self, classifier: Classifier, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """What a classifier says in the machine's fast precision, in float32: for training, never for judging."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_precision(self.device) is torch.bfloat16):
            logits = classifier(images.contiguous(memory_format=torch.channels_last))
        return logits.float()


@dataclass(eq=False)
class Watch:
    """The looks at one stage of a removal. In between nothing is read from the device, so that no step waits for its loss."""

    work: Work
    classifier: Classifier
    stage: str
    steps: int
    advice: str
    unit: str
    looks: int
    note: str
    """What the last look saw, for the progress."""
    done: float = 0.0
    """Share of the stage, 0 to 1."""

    def at(self, share: float, loss: Float[Tensor, ""], look: Callable[[int, float], float] | None = None) -> None:
        """Tell how far the stage is; look where it is time.

        Args:
            share: of the stage, 0 to 1, this step included; never falling.
            loss: of this step.
            look: given the steps done and the loss, puts a look into the history and returns its accuracy; None: one at the
                classifier, with the loss.

        Raises:
            TrainingDiverged: the loss of a step that is looked at is NaN or infinite.
        """
        before, self.done = self.done, share
        if self._count(share) <= self._count(before):
            return
        step, told = round(share * self.steps), float(loss.detach())
        if not math.isfinite(told):
            raise TrainingDiverged(f"{self.stage}: the loss became {told} by {self.unit} {step} {self.advice}")
        seen = (look or self._look)(step, told)
        self.note = f"{self.stage}, {self.unit} {step}: loss {told:.3f}, held-out accuracy {seen:.1%}"

    def _count(self, share: float) -> int:
        # 1/49 of 49 looks is a little less than one by rounding
        return int(share * self.looks + 1e-9)

    def _look(self, step: int, loss: float) -> float:
        return self.work.look(self.classifier, self.stage, step, loss=round(loss, 4))


class Remover(ABC):
    """A frozen dataclass of settings, its source's own by default, and what they do to a model.

    An author writes the two facts and `remove`. The harness copies the model, divides the images, and judges.
    """

    name: ClassVar[str]
    """As the command line and the results name it."""
    source: ClassVar[str]
    """Where the method and its defaults come from: authors, year, section."""
    takes_layers: ClassVar[bool] = False
    """Whether the user may name the layers that it works on."""

    def check(self, classifier: Classifier) -> None:
        """Say before any work that a model lacks what the method needs.

        Raises:
            ValueError: it has no BatchNorm, no convolution, …
        """
        return

    def described(self) -> dict[str, Any]:
        """What a repair hangs on beside the settings, JSON-like and with digests: the networks that it opens.

        Raises:
            ValueError: one of them cannot be opened.
        """
        return {}

    @abstractmethod
    def remove(self, work: Work) -> Classifier:
        """The repaired classifier, which may be `work.classifier` itself.

        Raises:
            ValueError: the model lacks what the method needs, or a layer that the user names is none of it.
        """


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def slower(rate: float) -> str:
    """What to try where a loss is not finite, for most methods: a quarter of the learning rate."""
    return f"with a learning rate of {rate}; try {rate / 4:.2g}"
