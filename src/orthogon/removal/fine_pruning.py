"""Fine-pruning: cut off the channels that clean images leave dormant, then fine-tune what is left."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.layers import last_convolution, require_layers
from orthogon.ranges import require
from orthogon.removal.readers import Reader, find_reader, require_convolution
from orthogon.removal.remover import Remover, Work, set_rate, slower

CHUNK = 256
"""Images in one pass of measuring activations."""


@dataclass(frozen=True)
class FinePruning(Remover):
    """Prune the last convolution's channels by mean activation until held-out accuracy falls, then fine-tune.

    The convolution is the last one that an image meets, 1×1 ones left aside; `Work.layers` may name another. A channel is
    pruned where the next layer of weights reads it, which holds in any network, and in a residual one for the shortcut's part,
    too; these weights stay zero. BatchNorm is in training mode while fine-tuning.
    """

    bound: float = 0.1
    """Share of its held-out accuracy that pruning may cost the model (BackdoorBench's configuration)."""
    step: float = 0.01
    """Share of the channels that is pruned between two looks; at least one (BackdoorBench's configuration)."""
    epochs: int = 100
    """Passes of the fine-tuning over the clean images (BackdoorBench's configuration, so on to batch and weight decay)."""
    learning_rate: float = 0.01
    """At first; it falls to 0 along half a cosine."""
    batch: int = 256
    """Images per step."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 5e-4
    """Of SGD, on all parameters."""

    name: ClassVar[str] = "fine-pruning"
    takes_layers: ClassVar[bool] = True
    source: ClassVar[str] = "Liu, Dolan-Gavitt and Garg 2018, Fine-Pruning; BackdoorBench for the numbers"

    def __post_init__(self) -> None:
        require(
            self,
            counts=("epochs", "batch"),
            positive=("step", "learning_rate"),
            not_negative=("weight_decay",),
            shares=("step",),
            below_one=("bound", "momentum"),
        )

    def check(self, classifier: Classifier) -> None:
        """Raise ValueError where there is no convolution."""
        last_convolution(classifier)

    def remove(self, work: Work) -> Classifier:
        """Pruned and fine-tuned.

        Raises:
            ValueError: more than one layer is named or no convolution, or its channels cannot be cut off in one place.
            TrainingDiverged: the loss became NaN or infinite.
        """
        convolution = self._convolution(work)
        reader = find_reader(work.classifier, convolution)
        layer = work.classifier.network.get_submodule(reader.name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        pruned = self._prune(work, reader, layer)
        work.notes.append(
            f"pruned {int(pruned.sum())} of the {len(pruned)} channels of {convolution}, where {reader.name} reads them"
        )
        self._fine_tune(work, layer, reader.mask(layer, pruned))
        return work.classifier.eval()

    def _convolution(self, work: Work) -> str:
        if len(work.layers) > 1:
            raise ValueError(f"fine-pruning prunes one convolution, {len(work.layers)} are named: {', '.join(work.layers)}")
        require_layers(work.classifier, work.layers)
        name = work.layers[0] if work.layers else last_convolution(work.classifier)
        require_convolution(work.classifier, name)
        return name

    def _prune(self, work: Work, reader: Reader, layer: nn.Conv2d | nn.Linear) -> Bool[Tensor, " channels"]:
        """Prune in place, the least active first, as many as the bound allows; which."""
        order = activity(work, reader).argsort()
        count, most = max(1, math.ceil(self.step * len(order))), len(order)
        whole, pruned = layer.weight.detach().clone(), torch.zeros(most, dtype=torch.bool, device=work.device)
        least = work.look(work.classifier, "pruning", 0) * (1 - self.bound)
        for number in range(count, most, count):
            more = pruned.clone().index_fill_(0, order[:number], True)
            _set(layer, whole * reader.mask(layer, more))
            work.on_progress(0.2 * number / most, f"pruning, {number} of {most} channels")
            if work.look(work.classifier, "pruning", number) < least:
                break
            pruned = more
        _set(layer, whole * reader.mask(layer, pruned))
        return pruned

    def _fine_tune(self, work: Work, layer: nn.Conv2d | nn.Linear, mask: Tensor) -> None:
        """Fine-tune in place; what is masked of the layer's weight is zero after each step."""
        classifier = work.classifier
        classifier.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        optimizer = torch.optim.SGD(
            classifier.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )
        watch = work.watch("fine-tuning", self.epochs, slower(self.learning_rate))
        for share, images, labels in work.batches(self.epochs, self.batch):
            set_rate(optimizer, self.learning_rate * (1 + math.cos(math.pi * watch.done)) / 2)
            loss = _stepped(work, optimizer, images, labels)
            _set(layer, layer.weight * mask)
            watch.at(share, loss)
            work.on_progress(0.2 + 0.8 * share, watch.note)


def activity(work: Work, reader: Reader) -> Float[Tensor, " channels"]:
    """Mean absolute activation of each channel on the clean images, where it is read.

    After a ReLU that is the mean activation; where no ReLU comes between, as at the end of some pre-activation networks, a
    large negative value is activity, too.
    """
    total = torch.zeros(reader.reads.shape[1], device=work.device)
    layer = work.classifier.network.get_submodule(reader.name)

    def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0].detach().float().abs()
        dimension = values.ndim - 1 if isinstance(layer, nn.Linear) else 1
        total.add_(values.movedim(dimension, 0).flatten(1).sum(1))

    handle = layer.register_forward_pre_hook(add)
    try:
        with torch.no_grad():
            work.classifier.eval()
            for pixels in work.images.pixels.split(CHUNK):
                work.classifier(pixels.to(work.device).float().div_(255))
    finally:
        handle.remove()
    reads = reader.reads.to(work.device, torch.float32)
    return reads @ total / reads.sum(1).clamp(min=1)


def _set(layer: nn.Conv2d | nn.Linear, weight: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)


def _stepped(
    work: Work, optimizer: torch.optim.SGD, images: Float[Tensor, "b c h w"], labels: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(work.logits(work.classifier.train(), images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
