"""The yardstick: the MOTH authors' inversion loop, plainly re-implemented, as the measure of our speed.

One pair at a time, batches of 32 in a random order, the model as it is (float32, unfolded, weight gradients left on), a
read-back to the host after every batch, Adam on the free parameters of mask and pattern, cross entropy plus a weight
times the size, and the rule of patience for the weight. Two rules say which trigger counts: the authors' own, the running
success rate of an epoch during which the trigger still changes; and the honest one, the finished trigger on all samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common import (
    Record,
    add_subject,
    balanced,
    by_pair,
    clock,
    device_of,
    label,
    pairs_of,
    parser,
    read_distances,
    show,
    subject,
)
from orthogon.classifier import Classifier

EPSILON = 1e-7
"""Keeps tanh's inverse finite, as in the release."""
WORTH_JUDGING = 0.85
"""Running success rate from which a trigger may turn 90 % of the samples, so that it is tested on all of them."""


@dataclass(frozen=True)
class YardstickSettings:
    """The release's settings for pairs."""

    epochs: int = 1000
    restarts: int = 3
    """Runs from random starts, one after the other; the smallest trigger of all counts."""
    batch: int = 32
    rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    asr: float = 0.9
    """Share of the samples that a trigger must turn."""
    weight: float = 1e-3
    """Of the size, at the start; the size is that of the mask as it is stamped, on all channels."""
    patience: int = 10
    """Epochs in a row that move the weight."""
    raise_by: float = 1.5
    lower_by: float = 1.5**1.5
    jitter: float = 0.01


@dataclass(frozen=True, eq=False)
class Epoch:
    """What an epoch ends with."""

    running: float
    """Share of the samples turned, each by the trigger of its own batch."""
    size: float
    """3 ‖m‖₁ of the last batch's mask."""
    mask: Tensor
    pattern: Tensor


class Search:
    """One run from one random start.

    Args:
        classifier: in evaluation mode; its weights collect gradients that nobody uses, as in the release.
        images: the victim's samples (n, c, h, w) in [0, 1], where the classifier is.
        target: class number.
        settings: of the loop.
        seed: of the start, the orders and the jitter.
    """

    def __init__(self, classifier: Classifier, images: Tensor, target: int, settings: YardstickSettings, seed: int) -> None:
        self.classifier = classifier.requires_grad_(True)
        self.images, self.settings = images, settings
        self.labels = torch.full((len(images),), target, device=images.device)
        self.generator = torch.Generator().manual_seed(seed)
        _, channels, height, width = images.shape
        self.mask = _free(self._uniform(1, 1, height, width)).requires_grad_()
        self.pattern = _free(self._uniform(1, channels, height, width)).requires_grad_()
        self.optimiser = torch.optim.Adam([self.mask, self.pattern], lr=settings.rate, betas=settings.betas)
        self.weight, self.best, self.successes, self.failures = settings.weight, float("inf"), 0, 0

    def epoch(self) -> Epoch:
        """All samples once."""
        hits = 0.0
        order = torch.randperm(len(self.images), generator=self.generator).to(self.images.device)
        for chosen in order.split(self.settings.batch):
            images, labels = self.images[chosen], self.labels[chosen]
            mask, pattern = _realised(self.mask), _realised(self.pattern)
            stamped = (1 - mask) * images + mask * pattern
            self.optimiser.zero_grad()
            logits = self.classifier(stamped)
            size = images.shape[1] * mask.sum()
            (cross_entropy(logits, labels) + self.weight * size).backward()
            self.optimiser.step()
            hits += (logits.argmax(1) == labels).sum().item()
        ended = Epoch(hits / len(self.images), size.item(), mask.detach(), pattern.detach())
        self._steer(ended)
        return ended

    def success(self, epoch: Epoch) -> float:
        """Share of all samples that the finished trigger turns, in float32."""
        with torch.no_grad():
            stamped = (1 - epoch.mask) * self.images + epoch.mask * epoch.pattern
            return (self.classifier(stamped).argmax(1) == self.labels).sum().item() / len(self.labels)

    def _steer(self, epoch: Epoch) -> None:
        settings, enough = self.settings, epoch.running >= self.settings.asr
        if enough and epoch.size < self.best:
            self.best = epoch.size
            self._shake(epoch)
        self.successes = self.successes + 1 if enough else 0
        self.failures = 0 if enough else self.failures + 1
        if self.successes >= settings.patience:
            self.weight, self.successes = self.weight * settings.raise_by, 0
        elif self.failures >= settings.patience:
            self.weight, self.failures = self.weight / settings.lower_by, 0

    @torch.no_grad()
    def _shake(self, epoch: Epoch) -> None:
        """Noise on what has just improved; Adam keeps its state."""
        for free, value in ((self.mask, epoch.mask), (self.pattern, epoch.pattern)):
            noise = self.settings.jitter * (2 * self._uniform(*value.shape) - 1)
            free.copy_(_free((value + noise).clamp(0, 1)))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator).to(self.images.device)


@dataclass(eq=False)
class Curve:
    """The smallest trigger so far by one rule of acceptance: a row for every improvement."""

    seconds: list[float] = field(default_factory=list)
    """Since the pair was begun, tests outside of the loop not counted."""
    epochs: list[int] = field(default_factory=list)
    """Since the pair was begun, over all restarts."""
    sizes: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    """Success rate as the authors count it."""
    asr: list[float] = field(default_factory=list)
    """Success rate on all samples, in float32."""

    @property
    def size(self) -> float:
        """The smallest size; infinite where nothing was accepted."""
        return self.sizes[-1] if self.sizes else float("inf")

    def seconds_to(self, size: float) -> float:
        """When a trigger of at most this size was there; infinite if never."""
        return next((t for t, s in zip(self.seconds, self.sizes, strict=True) if s <= size), float("inf"))

    def size_at(self, seconds: float) -> float:
        """The smallest size by then; infinite before the first."""
        return min((s for t, s in zip(self.seconds, self.sizes, strict=True) if t <= seconds), default=float("inf"))

    def add(self, seconds: float, number: int, epoch: Epoch, asr: float) -> None:
        """One more improvement."""
        row = (seconds, number, epoch.size, epoch.running, asr)
        for column, value in zip((self.seconds, self.epochs, self.sizes, self.running, self.asr), row, strict=True):
            column.append(value)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Found:
    """What the loop found for a pair, by both rules."""

    own: Curve
    """By the authors' rule: the running success rate."""
    honest: Curve
    """By ours: at least 90 % of all samples, in float32; the authors' rule steers the loop all the same."""
    seconds: float
    image_steps: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **{"seconds": self.seconds, "image_steps": self.image_steps},
            **{"own": vars(self.own), "honest": vars(self.honest)},
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Found:
        """The inverse of `to_json`."""
        own, honest = Curve(**record["own"]), Curve(**record["honest"])
        return cls(own, honest, record["seconds"], record["image_steps"])


def search_pair(classifier: Classifier, images: Tensor, target: int, settings: YardstickSettings, seed: int) -> Found:
    """Run the loop for one pair, all restarts; images are the victim's, in [0, 1]."""
    device, own, honest, seconds, number = device_of(classifier), Curve(), Curve(), 0.0, 0
    for restart in range(settings.restarts):
        search = Search(classifier, images, target, settings, seed * 1009 + restart)
        for _ in range(settings.epochs):
            began = clock(device)
            epoch = search.epoch()
            seconds, number = seconds + clock(device) - began, number + 1
            accepted = epoch.running >= settings.asr and epoch.size < own.size
            hopeful = epoch.running >= WORTH_JUDGING and epoch.size < honest.size
            asr = search.success(epoch) if accepted or hopeful else 0.0
            if accepted:
                own.add(seconds, number, epoch, asr)
            if epoch.size < honest.size and asr >= settings.asr:
                honest.add(seconds, number, epoch, asr)
    classifier.zero_grad(set_to_none=True)
    return Found(own, honest, seconds, number * len(images))


def _realised(free: Tensor) -> Tensor:
    """Values in [0, 1]."""
    return torch.tanh(free) / (2 - EPSILON) + 0.5


def _free(value: Tensor) -> Tensor:
    return torch.atanh((value - 0.5) * (2 - EPSILON))


def main() -> None:
    """Search the pairs that are asked for by the plain loop, and write sizes by both rules."""
    words = parser(__doc__, "yardstick")
    add_subject(words)
    words.add_argument("--pairs", default="random:20", help="as in `orthogon measure` (default: %(default)s)")
    words.add_argument("--samples", type=int, default=100, help="images of the victim class (default: %(default)s)")
    words.add_argument("--epochs", type=int, default=1000, help="per restart (default: %(default)s)")
    words.add_argument("--restarts", type=int, default=3, help="per pair (default: %(default)s)")
    words.add_argument("--published", type=Path, metavar="F", help="a matrix to compare the sizes with")
    args = words.parse_args()
    classifier, images = subject(args)
    images = balanced(images, args.samples, args.seed)
    record, settings = Record(args), YardstickSettings(args.epochs, args.restarts)
    sizes = torch.full((2, len(classifier.classes), len(classifier.classes)), torch.nan)
    rows = []
    for pair in pairs_of(args.pairs, classifier, args.seed):
        if label(pair) not in record.parts:
            victims = images.of_class(pair.victim or 0).floats(device_of(classifier))
            record.add(label(pair), search_pair(classifier, victims, pair.target, settings, args.seed).to_json())
            print(f"{label(pair)} done", flush=True)
        found = Found.from_json(record.parts[label(pair)])
        sizes[:, pair.victim, pair.target] = torch.tensor([found.own.size, found.honest.size])
        asr = found.own.asr[-1] if found.own.asr else None
        rate = found.image_steps / found.seconds
        rows.append((label(pair), found.own.size, asr, found.honest.size, found.seconds, rate))
    show("yardstick", ["pair", "size, own rule", "its ASR", "size, honest", "seconds", "image-steps/s"], rows)
    summary: dict[str, Any] = {"mean_own": sizes[0][sizes[0].isfinite()].mean().item()}
    summary["mean_honest"] = sizes[1][sizes[1].isfinite()].mean().item()
    if args.published:
        compared = by_pair(sizes[0], read_distances(args.published)["values"])
        summary["published_ratio"] = sum(row[1] for row in compared) / sum(row[2] for row in compared)
    show("means", list(summary), [list(summary.values())])
    record.finish(**summary)


if __name__ == "__main__":
    main()
