"""The one hardening loop: pick arms, search their triggers, train on stamped images with true labels, look, go on.

MOTH, its ablations and its baselines are settings of it (see methods.py). A step of the loop is a pick: the schedule names
some arms, all their triggers are searched in one batch, from the last ones where there are any, and a few updates of the
weights are made on clean and stamped images together.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orthogon import runs
from orthogon.classifier import Classifier, require_match
from orthogon.evaluate import accuracy, evaluating
from orthogon.frozen import chunk_for
from orthogon.hardening.adversaries import adversary
from orthogon.hardening.history import Check, History, Restart
from orthogon.hardening.phases import Phases
from orthogon.hardening.pool import TriggerPool
from orthogon.hardening.trainer import Trainer
from orthogon.hardening.victims import Victims
from orthogon.images import LabelledImages
from orthogon.machine import device_of
from orthogon.methods import MOTH, HardeningSettings
from orthogon.pairs import Pair
from orthogon.recipe import TrainingSettings
from orthogon.schedule import Arm
from orthogon.training import augment

_MOST_RESTARTS = 5
"""Returns to the last good state before a hardening gives up."""
_SHRUNK = 0.97
"""Of the sizes that a kept model's triggers had, what those of a later one must come to: searches differ by as much."""
_NUMBERS = ("step", "best_step", "best_accuracy", "stamp_weight", "rate_scale")
"""Of the loop's state, what a checkpoint holds as it is."""


class HardeningDiverged(ValueError):
    """The loss kept turning NaN or infinite; the message says which learning rate to try."""


@dataclass(frozen=True)
class HardeningProgress:
    """How far a hardening is."""

    done: float
    """Share of the budget, 0 to 1."""
    step: int
    phase: str
    """"warm-up" or "hardening"."""
    arms: tuple[Arm, ...]
    """Those picked last."""
    check: Check | None
    """The last look at held-out images."""
    distance: float
    """Mean size of the latest triggers."""


@dataclass(frozen=True, eq=False)
class Hardening:
    """What came of a hardening."""

    classifier: Classifier
    """The best model within the accuracy bound, in evaluation mode; the original where none was better."""
    history: History
    stopped: str
    """What ended it: "steps" or "minutes"."""
    step: int
    best_step: int
    """Updates that the kept model has behind it; 0: it is the original."""
    accuracy_before: float
    accuracy_after: float
    """Of the kept model; both on the held-out images, 0 to 1."""
    floor: float
    """The least accuracy that was allowed."""
    notes: tuple[str, ...]
    """What a reader has to know, such as classes that could not be hardened."""


def harden(
    classifier: Classifier,
    images: LabelledImages,
    held_out: LabelledImages,
    settings: HardeningSettings = MOTH,
    *,
    seed: int = 0,
    minutes: float | None = None,
    min_accuracy: float | None = None,
    checkpoint: Path | None = None,
    on_progress: Callable[[HardeningProgress], None] | None = None,
) -> Hardening:
    """Enlarge the class distances of a model.

    Args:
        classifier: is not changed; its device is where everything happens.
        images: to train on and to search triggers on.
        held_out: images that neither the hardening nor, better, the model's own training has seen. Only the stop rule looks at
            them; never give the test set.
        settings: the method and its numbers.
        seed: of every random draw.
        minutes: a budget beside `settings.steps`; whichever ends first ends the hardening. With minutes the result depends on
            the machine's speed.
        min_accuracy: a floor of its own (0 to 1), beside the one that `settings.max_accuracy_loss` sets.
        checkpoint: a safetensors file, written at every look and taken up again if it is there: without `minutes`, the same
            call after a kill ends with the weights that it would have had.
        on_progress: told the state after every update.

    Raises:
        ValueError: images of another shape or other classes than the classifier's; an accuracy bound that the model breaks
            already; fewer than two classes with images; a budget that ends in the warm-up; a checkpoint of another hardening.
        HardeningDiverged: the loss kept turning NaN.
    """
    for part in (images, held_out):
        require_match(classifier, part)
    if minutes is not None and minutes <= 0:
        raise ValueError(f"minutes must be above 0, got {minutes}")
    identity = {"settings": settings.told(), "images": images.digest(), "held_out": held_out.digest(), "seed": seed}
    identity |= {"minutes": minutes, "min_accuracy": min_accuracy, "model": classifier.digest()}
    with evaluating(classifier):
        state = _State(classifier, images, held_out, settings, seed, minutes, min_accuracy)
    if checkpoint is not None and checkpoint.exists():
        state.restore(*_read(checkpoint, identity))
    good = state.snapshot()
    while state.stopped is None:
        state.pick(on_progress)
        if state.due:
            if state.healthy:
                state.check()
                good = state.snapshot()
            else:
                state.go_back(good)
                good = state.snapshot()
            if checkpoint is not None:
                runs.write_tensors(checkpoint, good[0], {"hardening": json.dumps({**identity, "state": good[1]})})
    return state.result()


_Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


class _State:
    """Everything that a hardening changes."""

    def __init__(
        self,
        classifier: Classifier,
        images: LabelledImages,
        held_out: LabelledImages,
        settings: HardeningSettings,
        seed: int,
        minutes: float | None,
        min_accuracy: float | None,
    ) -> None:
        self.settings, self.held_out, self.seed, self.minutes = settings, held_out, seed, minutes
        self.device = device_of(classifier)
        self.generator = torch.Generator().manual_seed(seed)
        self.before = accuracy(classifier, held_out).accuracy
        self.floor = max(self.before - settings.max_accuracy_loss, min_accuracy or 0.0)
        if self.before < self.floor:
            raise ValueError(
                f"the model's accuracy on the held-out images is {self.before:.2%}, below the {self.floor:.2%} that it must "
                "keep: lower the bound, or start from a better model"
            )
        self.victims = Victims(images, self.device)
        self.phases = Phases(self.victims, settings, self.generator, len(classifier.classes))
        chunk = chunk_for(classifier)
        self.pool = TriggerPool(classifier, self.victims, settings, self.generator, chunk)
        self.trainer = Trainer(classifier, settings)
        self.adversary = adversary(classifier, settings, chunk)
        self.augmentation = TrainingSettings(shift=settings.shift, flip=settings.flip)
        self.history = History()
        self.step, self.best_step, self.best_accuracy = 0, 0, self.before
        self.best_sizes: dict[Pair, float] = {}
        self.best = {name: t.clone() for name, t in self.trainer.judged.network.state_dict().items()}
        self.stamp_weight, self.rate_scale = 1.0, 1.0
        self.loss, self.updates = torch.zeros((), device=self.device), 0
        self.arms: list[Arm] = []

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        share = self.step / self.settings.steps
        return min(1.0, share if self.minutes is None else max(share, self.history.total_seconds / 60 / self.minutes))

    @property
    def stopped(self) -> str | None:
        """What ended the hardening; None while it goes on."""
        if self.progress < 1:
            return None
        return "steps" if self.step >= self.settings.steps else "minutes"

    @property
    def due(self) -> bool:
        """Whether it is time to look at the held-out images."""
        last = self.history.checks[-1].step if self.history.checks else 0
        return self.step - last >= self.settings.check_every or self.stopped is not None

    @property
    def healthy(self) -> bool:
        """Whether loss and weights are finite."""
        weights = self.trainer.classifier.parameters()
        return math.isfinite(float(self.loss)) and all(bool(p.isfinite().all()) for p in weights)

    def pick(self, on_progress: Callable[[HardeningProgress], None] | None) -> None:
        """One turn of the loop."""
        began, settings, warming = time.monotonic(), self.settings, self.phases.warming
        self.arms = self.phases.choose(settings.arms_per_pick)
        self._search(warming)
        self.history.spend("warm-up" if warming else "inversion", time.monotonic() - began)
        began = time.monotonic()
        updates = 0 if warming and not settings.train_in_warm_up else settings.updates_per_pick
        for _ in range(min(updates, settings.steps - self.step)):
            self._update()
            if on_progress is not None:
                last = self.history.checks[-1] if self.history.checks else None
                phase = "warm-up" if warming else "hardening"
                told = (self.progress, self.step, phase, tuple(self.arms), last, self.pool.mean_distance())
                on_progress(HardeningProgress(*told))
        if self.arms and updates:
            self.pool.refresh(self.trainer.classifier)
        self.history.spend("training", time.monotonic() - began)

    def _search(self, warming: bool) -> None:
        """Search the arms' triggers, remember them, and tell the schedule."""
        if not self.arms or not (warming or self.phases.searching):
            return
        settings = self.settings
        length = settings.warm_up_inversion if warming else settings.first_inversion
        found = iter(self.pool.invert(self.arms, length, self.generator))
        for arm in self.arms:
            growths = list[float]()
            for _ in arm:
                inversion = next(found)
                growths.append(self.pool.keep(inversion))
                self.history.pick(self.step, inversion)
            known = [growth for growth in growths if math.isfinite(growth)]
            self.phases.report(arm, sum(known) if known else math.nan)
            if warming:
                self.phases.look(arm, self.pool)

    def _update(self) -> None:
        """One update of the weights on clean and stamped images."""
        settings, generator = self.settings, self.generator
        index = self.victims.draw_any(settings.batch, generator)
        clean, labels = self._images(index)
        batches, truths = [self.adversary.perturb(self.trainer.classifier, clean, labels, generator)], [labels]
        pairs = [pair for arm in self.arms for pair in arm if pair in self.pool.known]
        each = max(1, settings.stamped // len(pairs)) if pairs and settings.stamped else 0
        if each:
            index = torch.cat([self.victims.draw(pair, each, generator) for pair in pairs])
            images, labels = self._images(index)
            batches.append(self.pool.stamped(pairs, images.unflatten(0, (len(pairs), each))).flatten(0, 1))
            truths.append(labels)
        weights = torch.ones(sum(map(len, batches)), device=self.device)
        weights[settings.batch :] = self.stamp_weight
        rate = settings.learning_rate * self.rate_scale * (1 - self.progress)
        given = (torch.cat(batches), torch.cat(truths), weights)
        self.loss += self.trainer.update(*given, rate, self.adversary, clean, self.seed + self.step)
        self.updates += 1
        self.step += 1

    def _images(self, index: Int64[Tensor, " n"]) -> tuple[Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
        """Training images in [0, 1], augmented, with their labels."""
        images = self.victims.pixels[index].float() / 255
        return augment(images, self.augmentation, self.generator), self.victims.labels[index].to(self.device)

    def check(self) -> None:
        """Look at the held-out images; keep the model if it is within the bound and its distances are hardly smaller.

        Compared are the pairs that had a trigger then: while new ones are still being picked, which are not hardened yet, the
        mean over all falls although the model gains.
        """
        began = time.monotonic()
        judged = self.trainer.judged
        seen, distance = accuracy(judged, self.held_out).accuracy, self.pool.mean_distance()
        within = seen >= self.floor - 1e-9
        sizes = self.pool.sizes()
        growth = _growth(self.best_sizes, sizes)
        kept = within and growth >= _SHRUNK
        if kept:
            self.best = {name: t.clone() for name, t in judged.network.state_dict().items()}
            self.best_step, self.best_accuracy = self.step, seen
            self.best_sizes = sizes | (self.best_sizes if growth < 1 else {})
        self.stamp_weight = min(1.0, self.stamp_weight * 1.25) if within else max(0.05, self.stamp_weight * 0.5)
        self.history.spend("checks", time.monotonic() - began)
        told = round(distance, 4) if math.isfinite(distance) else None
        loss = float(self.loss) / max(1, self.updates)
        self.history.checks.append(Check(self.step, round(self.history.total_seconds, 2), seen, told, round(loss, 5), kept))
        self.loss, self.updates = torch.zeros((), device=self.device), 0

    def go_back(self, good: _Snapshot) -> None:
        """Return to the last good state with half the learning rate, and say so."""
        restarts, seconds = self.history.restarts, self.history.seconds
        if len(restarts) == _MOST_RESTARTS:
            rate = self.settings.learning_rate * self.rate_scale / 4
            raise HardeningDiverged(f"the loss was not finite {_MOST_RESTARTS + 1} times; try a learning rate of {rate:.2g}")
        at = self.step
        scale = self.rate_scale / 2
        self.restore(*good)
        self.rate_scale = scale
        self.history.seconds = seconds  # the time is spent all the same
        reason = f"the loss was not finite at step {at}; on from step {self.step} with half the learning rate"
        self.history.restarts = [*restarts, Restart(at, reason)]

    def snapshot(self) -> _Snapshot:
        """All of the state: tensors, and JSON-like facts."""
        tensors = {f"trainer.{name}": t.detach().clone() for name, t in self.trainer.tensors().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        tensors |= {f"trigger.{name}": t for name, t in self.pool.tensors().items()}
        tensors |= {f"adversary.{name}": t.detach().clone() for name, t in self.adversary.tensors().items()}
        tensors |= {f"phases.{name}": t.clone() for name, t in self.phases.tensors().items()}
        tensors["generator"] = self.generator.get_state()
        facts = {name: getattr(self, name) for name in _NUMBERS}
        facts["best_sizes"] = [[pair.victim, pair.target, size] for pair, size in self.best_sizes.items()]
        facts |= {"triggers": self.pool.facts(), "phases": self.phases.state(), "history": self.history.to_json()}
        facts["seconds"] = dict(self.history.seconds)
        return tensors, json.loads(json.dumps(facts))

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take up a snapshot."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.trainer.restore(part("trainer."))
        self.best = {name: t.to(self.device).clone() for name, t in part("best.").items()}
        self.pool.restore(part("trigger."), facts["triggers"])
        self.adversary.restore(part("adversary."))
        self.phases.restore(facts["phases"], part("phases."))
        self.generator.set_state(tensors["generator"])
        self.history = History.from_json(facts["history"])
        self.history.seconds = dict(facts["seconds"])
        for name in _NUMBERS:
            setattr(self, name, facts[name])
        self.best_sizes = {Pair(victim, target): size for victim, target, size in facts["best_sizes"]}
        self.loss, self.updates = torch.zeros((), device=self.device), 0
        self.pool.refresh(self.trainer.classifier)

    def result(self) -> Hardening:
        """The kept model and what is told of it."""
        kept = self.trainer.judged
        kept.network.load_state_dict(self.best)
        kept.network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        kept.requires_grad_(True)
        stopped = self.stopped or "steps"
        notes = self.phases.notes + ((_SHORT,) if self.phases.warming and self.settings.arms != "none" else ())
        told = (self.step, self.best_step, self.before, self.best_accuracy, self.floor, notes)
        return Hardening(kept.eval(), self.history, stopped, *told)


_SHORT = "the budget ended within the warm-up, before any pair was hardened: give more minutes or steps"


def _growth(then: Mapping[Pair, float], now: Mapping[Pair, float]) -> float:
    """Of the pairs that are in both, the sum of the later sizes by that of the earlier; 1 where there are none."""
    both = [pair for pair in then if pair in now]
    before = sum(then[pair] for pair in both)
    return sum(now[pair] for pair in both) / before if before > 0 else 1.0


def _read(path: Path, identity: dict[str, Any]) -> _Snapshot:
    """A checkpoint's snapshot.

    Raises:
        ValueError: it is damaged, or of another hardening.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("hardening", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} is not a hardening's checkpoint: {error}; remove it to start again") from error
    facts = record.pop("state", {})
    if changes := runs.differences(record, json.loads(json.dumps(identity))):
        raise ValueError(f"{path} is of another hardening ({'; '.join(changes)}); remove it to start again")
    return tensors, facts
