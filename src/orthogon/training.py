"""Fit a classifier: data on the device, augmentation as tensor operations, one-cycle SGD, resume after a kill.

The recipe follows airbench (Jordan 2024, arXiv:2404.00498) where that holds for any network: no data loader, a batch
indexed and augmented on the device, channels-last, bfloat16 where the machine is fast at it, Nesterov momentum under a
triangular learning rate, and no weight decay on biases and normalisation layers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from orthogon import runs
from orthogon.classifier import Classifier, require_match
from orthogon.images import LabelledImages, cutout, random_crop, random_flip
from orthogon.machine import device_of, fast_precision
from orthogon.randomness import layer_draws
from orthogon.recipe import TrainingSettings


@dataclass(frozen=True)
class Epoch:
    """One pass over the images: mean loss and accuracy (0 to 1) on the augmented batches, and the seconds it took."""

    number: int
    loss: float
    accuracy: float
    seconds: float


class TrainingDiverged(ValueError):
    """The loss became NaN or infinite; the message says which learning rate to try."""


@dataclass(eq=False)
class _State:
    """What a step changes, and what a checkpoint therefore holds."""

    network: nn.Module
    optimizer: torch.optim.SGD
    average: torch.optim.swa_utils.AveragedModel | None
    seed: int
    history: list[Epoch] = field(default_factory=list)


def fit(
    classifier: Classifier,
    images: LabelledImages,
    settings: TrainingSettings,
    generator: torch.Generator,
    *,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10.0,
    on_progress: Callable[[float, Epoch | None], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train the classifier's network in place, on the device that it is on; it is left in evaluation mode.

    Args:
        classifier: its normalisation stays inside, so the network sees what it will see later.
        images: moved to the device as bytes. A pass shuffles them and leaves out the last ones, which fill no batch.
        settings: the recipe.
        generator: one draw of it seeds the shuffles and the augmentation of all epochs.
        checkpoint: a safetensors file, written after an epoch and taken up again if it is there: the same call after
            a kill, with the weights that it started from, ends with those that it would have had.
        checkpoint_seconds: the least time between two writes.
        on_progress: called after each step with the share done (0 to 1) and the last whole epoch.

    Returns:
        The history, one entry per epoch (those before a resume included).

    Raises:
        ValueError: images of another shape or number of classes, no images, or a checkpoint of another training.
        TrainingDiverged: the loss became NaN or infinite.
        RunError: the checkpoint cannot be written.
    """
    require_match(classifier, images)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    device = device_of(classifier)
    state = _start(classifier, settings, seed)
    identity = {"settings": asdict(settings), "data": images.digest(), "seed": seed, "start": classifier.digest()}
    if checkpoint is not None and checkpoint.exists():
        _load(checkpoint, state, identity)
    written = time.monotonic()
    pixels, labels = images.pixels.to(device), images.labels.to(device)
    classifier.train()
    for number in range(len(state.history), settings.epochs):
        with layer_draws(device, seed + number):
            state.history.append(_epoch(classifier, state, pixels, labels, number, settings, on_progress))
        due = time.monotonic() - written >= checkpoint_seconds or number + 1 == settings.epochs
        if checkpoint is not None and due:
            _save(checkpoint, state, identity)
            written = time.monotonic()
    if state.average is not None:
        state.network.load_state_dict(state.average.module.state_dict())
    state.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    classifier.eval()
    return tuple(state.history)


def learning_rate_share(progress: float, warm_up: float) -> float:
    """Share of the peak learning rate at a share of the steps (both 0 to 1): a triangle with its peak at `warm_up`."""
    return progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)


def sgd(network: nn.Module, learning_rate: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Nesterov's SGD whose weight decay spares biases and normalisation layers: parameters of one dimension."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=learning_rate, momentum=momentum, nesterov=momentum > 0
    )


def _start(classifier: Classifier, settings: TrainingSettings, seed: int) -> _State:
    network = classifier.network
    network.requires_grad_(True).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = sgd(network, settings.learning_rate, settings.momentum, settings.weight_decay)
    average = None
    if settings.average:
        mean = torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average)
        average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=mean, use_buffers=True)
    return _State(network, optimizer, average, seed)


def _epoch(
    classifier: Classifier,
    state: _State,
    pixels: Tensor,
    labels: Tensor,
    number: int,
    settings: TrainingSettings,
    on_progress: Callable[[float, Epoch | None], None] | None,
) -> Epoch:
    began, device = time.monotonic(), pixels.device
    # A seed per epoch, so that a resumed training needs no generator's state.
    generator = torch.Generator(device).manual_seed((state.seed + number) % 2**63)
    total = torch.zeros(2, device=device)  # loss and correct answers; read once, at the end of the epoch
    batches = list(_batches(labels, settings.batch, generator))
    for step, index in enumerate(batches):
        progress = (number + (step + 1) / len(batches)) / settings.epochs
        # Half a step early, so that neither the first step nor the last has a learning rate of zero.
        share = learning_rate_share(progress - 0.5 / len(batches) / settings.epochs, settings.warm_up)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        batch = augment(pixels[index].float().div_(255), settings, generator)
        total += _step(classifier, state, batch, labels[index], settings)
        if on_progress is not None:
            on_progress(progress, state.history[-1] if state.history else None)
    loss, accuracy = (total / sum(map(len, batches))).tolist()
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the loss became {loss} in epoch {number + 1} with a learning rate of {settings.learning_rate}; "
            f"try {settings.learning_rate / 4:.2g}, and see that the weights it starts from are finite"
        )
    return Epoch(number + 1, loss, accuracy, time.monotonic() - began)


def _batches(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Int64[Tensor, " b"]]:
    """A shuffle cut into batches; a last short one is left out, since BatchNorm cannot normalise one image."""
    order = torch.randperm(len(labels), generator=generator, device=labels.device)
    size = min(size, len(order))
    for start in range(0, len(order) - size + 1, size):
        yield order[start : start + size]


def augment(batch: Float[Tensor, "n c h w"], settings: TrainingSettings, generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """The batch shifted, mirrored and covered as the settings say; images in [0, 1] stay there."""
    side = min(batch.shape[2:])
    if padding := min(round(settings.shift * side), side - 1):
        batch = random_crop(batch, generator, padding)
    if settings.flip:
        batch = random_flip(batch, generator)
    if size := round(settings.cutout * side):
        batch = cutout(batch, generator, size)
    return batch.contiguous(memory_format=torch.channels_last)


def _step(classifier: Classifier, state: _State, batch: Tensor, labels: Tensor, settings: TrainingSettings) -> Float[Tensor, "2"]:
    """One update; returns the batch's summed loss and number of correct answers, still on the device."""
    half = settings.precision == "bfloat16" or (settings.precision == "auto" and fast_precision(batch.device) is torch.bfloat16)
    state.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        logits = classifier(batch)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
    loss.backward()
    state.optimizer.step()
    if state.average is not None:
        state.average.update_parameters(state.network)
    correct = (logits.detach().argmax(1) == labels).sum()
    return torch.stack([loss.detach() * len(labels), correct.float()])


def _tensors(state: _State) -> dict[str, Tensor]:
    """Every tensor of the state by name; those of the network are the network's own, not copies."""
    tensors = {f"network.{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    for name, parameter in state.network.named_parameters():
        momentum = state.optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    return tensors


def _save(path: Path, state: _State, identity: dict[str, Any]) -> None:
    record = {**identity, "history": [asdict(epoch) for epoch in state.history]}
    runs.write_tensors(path, _tensors(state), {"training": json.dumps(record)})


def _load(path: Path, state: _State, identity: dict[str, Any]) -> None:
    """Put a checkpoint's tensors and history into the state."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("training", "{}"))
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a training checkpoint: {error}; remove it to start again") from error
    history = [Epoch(**epoch) for epoch in record.pop("history", [])]
    if changes := runs.differences(record, identity):
        raise ValueError(f"{path} is of another training ({'; '.join(changes)}); remove it to start again")
    for name, parameter in state.network.named_parameters():
        if f"momentum.{name}" in saved:
            state.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    present = _tensors(state)
    if wrong := {name for name in present.keys() | saved.keys() if _shape(present, name) != _shape(saved, name)}:
        raise ValueError(f"{path} is of another network (it differs in {sorted(wrong)[:5]}); remove it to start again")
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(saved[name])
    state.history = history


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
