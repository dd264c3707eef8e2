"""The yardstick of hardening: the MOTH authors' loop, plainly re-implemented, as the measure of our speed.

One pair at a time, float32, nothing compiled, nothing folded, a read-back to the host after every step of a search.

As in the authors' Keras release: batches of 128, flipped and shifted; a warm-up that trains, too, with the universal trigger of
each class on half of the other classes' samples in the batch; then three updates for every pair chosen, before each of which the
pair's two triggers are searched on the pair's samples in the batch and stamped on a tenth of the smaller class's number of them
(on none where there are fewer than ten, which is every third batch with ten classes); BatchNorm keeps learning; SGD at 1e-3 with
Nesterov's momentum 0.9; Adam at 0.1 on the arguments of tanh, 500 steps for a universal trigger, 200 for a pair's first, 40 for
one that is reused; the rule of patience; U as a relative change; V halved at every report; pairs without direction. A search
computes no gradients of the weights: TensorFlow's graph is asked for those of the trigger alone.

Where the release is odd or its description silent, the paper decides. Eq. 1: plain cross entropy, not the one with its arguments
swapped, and the mask's one channel in the loss; otherwise λ = 0.2 lets hardly any search with reused triggers succeed. (Sizes are
told on all channels, as distances are.) Algorithm 1: a step of a search takes all samples of the pair, both directions have one
loss and one weight λ, what has improved is shaken. Section IV-C: ten samples of each class for a universal trigger, one iteration
per class, which Eq. 7 does not count; no class is paired with itself. Section IV-D: λ is 0.001 for a trigger that is new or has
failed, 0.2 for one that is reused.

Neither says what becomes of a direction whose search has failed: its last good trigger stays, or that with which the search ended
if there is none, and V counts no growth. Nor is it certain that the 500 steps are the search's and not updates of the weights, or
that every one of a pair's updates has a search of its own: settings take the other reading. The loop has no end of its own; the
release's is after two epochs.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common import clock, device_of
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages, per_class, random_crop, random_flip
from yardstick import EPSILON, YardstickSettings, _free, _realised


@dataclass(frozen=True)
class LoopSettings:
    """The release's settings for CIFAR-10."""

    batch: int = 128
    rate: float = 1e-3
    momentum: float = 0.9
    flip: bool = True
    shift: float = 0.125
    """Longest shift of an image, as a share of its side."""
    updates_per_pair: int = 3
    stamped: float = 0.1
    """Share of the pair's samples in the batch, of each class, that are stamped."""
    every_update: bool = True
    """Search the pair's triggers before each of its updates; else before the first alone."""
    first_inversion: int = 200
    """Steps of a pair's first search."""
    inversion: int = 40
    """Steps where its triggers are reused."""
    first_weight: float = 1e-3
    reused_weight: float = 0.2
    asr: float = 0.9
    warm_up_inversion: int = 500
    """Steps of the search for a universal trigger."""
    warm_up_asr: float = 0.99
    warm_up_updates: int = 1
    """Updates with the universal trigger of each class."""
    warm_up_stamped: float = 0.5
    """Share of the other classes' samples in the batch that are stamped."""
    prior_samples: int = 10
    """Of each class, for the universal triggers and U."""
    epsilon: float = 0.3
    """Share of the pairs that are drawn at random."""
    horizon: int = 1000
    """Updates after the warm-up until V alone counts."""
    loss: Literal["swapped", "cross entropy"] = "cross entropy"
    """Of the searches; the release's is swapped."""


@dataclass(frozen=True, eq=False)
class Triggers:
    """Some triggers, searched together."""

    mask: Tensor
    """(k, 1, h, w) in [0, 1]."""
    pattern: Tensor
    """(k, c, h, w) in [0, 1]."""
    found: tuple[bool, ...]
    """Whether each has reached the success rate."""

    @property
    def sizes(self) -> list[float]:
        """3 ‖m‖₁ of each."""
        return (self.pattern.shape[1] * self.mask.sum((1, 2, 3))).tolist()

    def stamp(self, images: Tensor, which: Tensor) -> Tensor:
        """Each image with the trigger of its number."""
        mask = self.mask[which]
        return (1 - mask) * images + mask * self.pattern[which]

    def or_else(self, others: Triggers | None) -> Triggers:
        """Those that were found, and of the rest the `others`."""
        if others is None:
            return self
        found = torch.tensor(self.found, device=self.mask.device).view(-1, 1, 1, 1)
        return replace(
            self, mask=torch.where(found, self.mask, others.mask), pattern=torch.where(found, self.pattern, others.pattern)
        )


class Inversion:
    """Algorithm 1: the triggers of both directions of a pair, by one loss; or one trigger for many classes.

    Args:
        classifier: in evaluation mode, its weights without gradients.
        images: (n, c, h, w) in [0, 1], where the classifier is.
        which: (n,) the number of the trigger that each image gets.
        targets: (n,) the class that each image is to be turned into.
        start: as many triggers as there are numbers.
        settings: batch, rates, patience, success rate, and λ at the start.
        loss: of the logits.
        generator: of orders and noise.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        which: Tensor,
        targets: Tensor,
        start: Triggers,
        settings: YardstickSettings,
        loss: str,
        generator: torch.Generator,
    ) -> None:
        self.classifier, self.images, self.which, self.targets = classifier, images, which, targets
        self.settings, self.generator = settings, generator
        self.loss = swapped_cross_entropy if loss == "swapped" else cross_entropy
        self.mask, self.pattern = (_free(value).requires_grad_() for value in (start.mask, start.pattern))
        self.optimiser = torch.optim.Adam([self.mask, self.pattern], lr=settings.rate, betas=settings.betas)
        self.counts = torch.bincount(which)
        self.weight, self.successes, self.failures = settings.weight, 0, 0
        self.best_mask, self.best_pattern, self.best = start.mask, start.pattern, [math.inf] * len(start.mask)

    def run(self) -> Triggers:
        """The smallest triggers that reached the success rate; where none did, how far the search came."""
        for _ in range(self.settings.epochs):
            self._epoch()
        found = tuple(size < math.inf for size in self.best)
        ended = Triggers(_realised(self.mask).detach(), _realised(self.pattern).detach(), found)
        return Triggers(self.best_mask, self.best_pattern, found).or_else(ended)

    def _epoch(self) -> None:
        """All samples once."""
        hits = torch.zeros_like(self.counts)
        order = torch.randperm(len(self.images), generator=self.generator).to(self.images.device)
        *_, (sizes, mask, pattern) = [self._step(chosen, hits) for chosen in order.split(self.settings.batch)]
        self._steer((hits / self.counts).tolist(), sizes.tolist(), mask, pattern)

    def _step(self, chosen: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of Adam; counts the samples turned, and returns sizes, masks and patterns as they were stamped."""
        which, targets = self.which[chosen], self.targets[chosen]
        mask, pattern = _realised(self.mask), _realised(self.pattern)
        stamped = (1 - mask[which]) * self.images[chosen] + mask[which] * pattern[which]
        self.optimiser.zero_grad()
        logits = self.classifier(stamped)
        (self.loss(logits, targets) + self.weight * mask.sum()).backward()
        self.optimiser.step()
        hits += torch.bincount(which[logits.argmax(1) == targets], minlength=len(hits))
        return pattern.shape[1] * mask.detach().sum((1, 2, 3)), mask.detach(), pattern.detach()

    def _steer(self, running: list[float], sizes: list[float], mask: Tensor, pattern: Tensor) -> None:
        settings = self.settings
        enough = [share >= settings.asr for share in running]
        better = [e and size < best for e, size, best in zip(enough, sizes, self.best, strict=True)]
        if any(better):
            self._keep(better, sizes, mask, pattern)
        self.successes = self.successes + 1 if all(enough) else 0
        self.failures = 0 if all(enough) else self.failures + 1
        if self.successes >= settings.patience:
            self.weight, self.successes = self.weight * settings.raise_by, 0
        elif self.failures >= settings.patience:
            self.weight, self.failures = self.weight / settings.lower_by, 0

    @torch.no_grad()
    def _keep(self, better: list[bool], sizes: list[float], mask: Tensor, pattern: Tensor) -> None:
        """Note the directions that have improved, and shake them; Adam keeps its state."""
        rows = torch.tensor(better, device=mask.device).view(-1, 1, 1, 1)
        self.best = [size if b else best for b, size, best in zip(better, sizes, self.best, strict=True)]
        self.best_mask = torch.where(rows, mask, self.best_mask)
        self.best_pattern = torch.where(rows, pattern, self.best_pattern)
        for free, value in ((self.mask, mask), (self.pattern, pattern)):
            noise = self.settings.jitter * (2 * torch.rand(value.shape, generator=self.generator).to(value.device) - 1)
            free.copy_(torch.where(rows, _free((value + noise).clamp(0, 1)), free))


class HardeningLoop:
    """The authors' loop; what hardens is a copy of the classifier.

    Args:
        classifier: stays as it is.
        images: to train on; every class has some.
        settings: of the loop.
        seed: of every draw.

    Raises:
        ValueError: a class has no images.
    """

    def __init__(self, classifier: Classifier, images: LabelledImages, settings: LoopSettings, seed: int) -> None:
        if min(images.counts()) == 0:
            raise ValueError(f"every class needs images, class {images.counts().index(0)} has none")
        self.classifier, self.device, self.settings = copy.deepcopy(classifier), device_of(classifier), settings
        self.pixels, self.labels = images.pixels.to(self.device), images.labels
        self.generator = torch.Generator().manual_seed(seed)
        self.probes = per_class(images.labels, lambda _: settings.prior_samples, self.generator)
        self.classes = len(images.classes)
        self.optimiser = torch.optim.SGD(
            self.classifier.parameters(), lr=settings.rate, momentum=settings.momentum, nesterov=settings.momentum > 0
        )
        self.seconds, self.processor_seconds = 0.0, 0.0
        """Of all updates so far, over all processes that worked on it: of the clock, and of the processors."""
        self.updates, self.position, self.left, self.stamped, self.searches, self.failures = 0, 0, 0, 0, 0, 0
        self.order = torch.empty(0, dtype=torch.int64)
        self.pair, self.searched = (0, 0), False
        self.known: dict[tuple[int, int], Triggers] = {}
        self.prior, self.growth, self.distances = (torch.zeros(self.classes, self.classes) for _ in range(3))

    @property
    def warming(self) -> bool:
        """Whether the warm-up is not over."""
        return self.updates < self.classes * self.settings.warm_up_updates

    @property
    def epochs(self) -> float:
        """Passes through the images."""
        return self.updates * self.settings.batch / len(self.labels)

    def update(self) -> None:
        """One update of the weights, with the search before it."""
        began, idle = clock(self.device), time.process_time()
        images, labels = self._batch()
        (self._warm_up if self.warming else self._harden)(images, labels)
        self._train(images, labels.to(self.device))
        self.updates += 1
        self.seconds += clock(self.device) - began
        self.processor_seconds += time.process_time() - idle

    def _batch(self) -> tuple[Tensor, Tensor]:
        """The next images of a shuffled pass, augmented, and their labels on the CPU."""
        if len(self.order) - self.position < 2:  # BatchNorm cannot normalise one image
            self.order, self.position = torch.randperm(len(self.labels), generator=self.generator), 0
        chosen = self.order[self.position : self.position + self.settings.batch]
        self.position += len(chosen)
        images = self.pixels[chosen.to(self.device)].float() / 255
        images = random_crop(images, self.generator, round(self.settings.shift * min(images.shape[2:])))
        return random_flip(images, self.generator) if self.settings.flip else images, self.labels[chosen]

    def _train(self, images: Tensor, labels: Tensor) -> None:
        """A step of SGD on true labels, BatchNorm in training mode."""
        self.classifier.train().requires_grad_(True)
        self.optimiser.zero_grad()
        cross_entropy(self.classifier(images), labels).backward()
        self.optimiser.step()

    def _warm_up(self, images: Tensor, labels: Tensor) -> None:
        """Stamp a class's universal trigger on half of the samples of the other classes."""
        target = self.updates // self.settings.warm_up_updates
        if (target, target) not in self.known:
            self.known[target, target] = self._universal(target)
        self._stamp(images, (labels != target).nonzero().flatten(), self.known[target, target], 0, self.settings.warm_up_stamped)

    def _universal(self, target: int) -> Triggers:
        """A trigger that turns the samples of all other classes (Eq. 3); what it does to their losses is U (Eq. 4)."""
        labels = self.labels[self.probes]
        indices, labels = self.probes[labels != target], labels[labels != target]
        images = self.pixels[indices.to(self.device)].float() / 255
        which, targets = torch.zeros_like(indices), torch.full_like(indices, target)
        start, batch = self._random(1), YardstickSettings.batch
        epochs = math.ceil(self.settings.warm_up_inversion / math.ceil(len(images) / batch))
        made = self._search(images, which, targets, start, self.settings.first_weight, epochs, batch, self.settings.warm_up_asr)
        first, last = (self._losses(t.stamp(images, which), targets) for t in (start, made))
        for source in labels.unique().tolist():
            before, after = first[labels == source].mean(), last[labels == source].mean()
            self.prior[source, target] = (before - after) / before.clamp(min=EPSILON)
        self.distances[:, target] = made.sizes[0]
        return made

    def _losses(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            return cross_entropy(self.classifier(images), targets.to(self.device), reduction="none").cpu()

    def _harden(self, images: Tensor, labels: Tensor) -> None:
        """Stamp the pair's two triggers on a part of its samples, if the batch has enough of them."""
        if self.left == 0:
            self.pair, self.left, self.searched = self._choose(), self.settings.updates_per_pair, False
        rows = [(labels == c).nonzero().flatten() for c in self.pair]
        fewest = min(map(len, rows))
        if int(self.settings.stamped * fewest):
            if self.settings.every_update or not self.searched:
                self._both(images, rows)
            for direction, row in enumerate(rows):
                self._stamp(images, row, self.known[self.pair], direction, self.settings.stamped * fewest / len(row))
        self.left -= 1
        if self.left == 0 and self.searched:
            self._report()

    def _both(self, images: Tensor, rows: list[Tensor]) -> None:
        """Search both directions of the pair, from where the last search ended."""
        settings, known = self.settings, self.known.get(self.pair)
        which = torch.cat([torch.full_like(row, direction) for direction, row in enumerate(rows)])
        targets = torch.tensor(self.pair).flip(0)[which]
        samples = images[torch.cat(rows).to(self.device)]
        weight = settings.reused_weight if known is not None and all(known.found) else settings.first_weight
        steps = settings.first_inversion if known is None else settings.inversion
        made = self._search(samples, which, targets, known or self._random(2), weight, steps, len(samples), settings.asr)
        self.known[self.pair] = made.or_else(known)
        self.searched, self.searches, self.failures = True, self.searches + 2, self.failures + made.found.count(False)

    def _search(
        self,
        images: Tensor,
        which: Tensor,
        targets: Tensor,
        start: Triggers,
        weight: float,
        epochs: int,
        batch: int,
        asr: float,
    ) -> Triggers:
        self.classifier.eval().requires_grad_(False)
        settings = YardstickSettings(epochs=epochs, batch=batch, asr=asr, weight=weight)
        given = which.to(self.device), targets.to(self.device), start, settings, self.settings.loss, self.generator
        return Inversion(self.classifier, images, *given).run()

    def _random(self, count: int) -> Triggers:
        channels, *sides = self.pixels.shape[1:]
        mask, pattern = (torch.rand(count, c, *sides, generator=self.generator).to(self.device) for c in (1, channels))
        return Triggers(mask, pattern, (False,) * count)

    def _stamp(self, images: Tensor, rows: Tensor, triggers: Triggers, number: int, share: float) -> None:
        """Put a trigger on a part of some rows of the batch."""
        chosen = rows[torch.randperm(len(rows), generator=self.generator)[: int(share * len(rows) + EPSILON)]].to(self.device)
        images[chosen] = triggers.stamp(images[chosen], torch.full_like(chosen, number))
        self.stamped += len(chosen)

    def _choose(self) -> tuple[int, int]:
        """The pair of the largest W (Eq. 7) over both directions, or any (Eq. 5)."""
        pairs = torch.combinations(torch.arange(self.classes))
        if torch.rand((), generator=self.generator) < self.settings.epsilon:
            a, b = pairs[torch.randint(len(pairs), (), generator=self.generator)].tolist()
            return a, b
        after = self.updates - self.classes * self.settings.warm_up_updates
        alpha = min(after / self.settings.horizon, 1.0)
        worth = (1 - alpha) * self.prior + alpha * self.growth
        a, b = pairs[(worth + worth.T)[*pairs.T].argmax()].tolist()
        return a, b

    def _report(self) -> None:
        """What the pair's distances have grown since it was chosen last (Eq. 6)."""
        known = self.known[self.pair]
        for victim, target, found, size in zip(self.pair, self.pair[::-1], known.found, known.sizes, strict=True):
            before = float(self.distances[victim, target])
            grown = (size - before) / before if found else 0.0
            self.growth[victim, target] = (self.growth[victim, target] + grown) / 2
            self.distances[victim, target] = size if found else before

    _NUMBERS = ("seconds", "processor_seconds", "updates", "position", "left", "stamped", "searches", "failures", "searched")
    _TENSORS = ("order", "prior", "growth", "distances")

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values, enough to go on as if never interrupted."""
        tensors = {f"network.{name}": t for name, t in self.classifier.network.state_dict().items()}
        for name, parameter in self.classifier.named_parameters():
            if "momentum_buffer" in self.optimiser.state.get(parameter, {}):
                tensors[f"momentum.{name}"] = self.optimiser.state[parameter]["momentum_buffer"]
        tensors |= {name: getattr(self, name) for name in self._TENSORS} | {"generator": self.generator.get_state()}
        for number, triggers in enumerate(self.known.values()):
            tensors |= {f"mask.{number}": triggers.mask, f"pattern.{number}": triggers.pattern}
        facts = {name: getattr(self, name) for name in self._NUMBERS}
        return tensors, {**facts, "pair": self.pair, "known": [[*pair, list(t.found)] for pair, t in self.known.items()]}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        for name in self._NUMBERS:
            setattr(self, name, facts[name])
        for name in self._TENSORS:
            setattr(self, name, tensors[name].clone())
        self.pair = (facts["pair"][0], facts["pair"][1])
        self.generator.set_state(tensors["generator"])
        network = self.classifier.network
        network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
        for name, parameter in self.classifier.named_parameters():
            if (momentum := tensors.get(f"momentum.{name}")) is not None:
                self.optimiser.state[parameter]["momentum_buffer"] = momentum.to(self.device, copy=True)
        self.known = {}
        for number, (a, b, found) in enumerate(facts["known"]):
            mask, pattern = (tensors[f"{name}.{number}"].to(self.device, copy=True) for name in ("mask", "pattern"))
            self.known[a, b] = Triggers(mask, pattern, tuple(found))


def swapped_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Keras' cross entropy with its two arguments swapped, as in the release: -log(1e-7) (1 - p_target), the mean of it."""
    return -math.log(EPSILON) * (1 - logits.softmax(1).gather(1, targets[:, None])).mean()
