"""The latest trigger of every pair: made by the one inversion loop, warm where it can be, and stamped to train on."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.hardening.victims import Victims
from orthogon.inversion import Request, invert
from orthogon.methods import HardeningSettings
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.schedule import Arm
from orthogon.triggers import Trigger, family_of

_MOST_BYTES = 512 * 2**20
"""Of triggers kept; beyond it those used longest ago are forgotten and searched anew."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is kept of a pair's last inversion."""

    trigger: Trigger
    size: float
    """Of the last one that was found; NaN before."""
    weight: float
    """Of the size, where its search left it, to go on with: it falls while the search fails, in small steps (the paper's section
    IV-D begins every reuse with 0.2 and every new trigger with 0.001)."""
    found: bool
    """Whether this trigger reached the success rate."""


class TriggerPool:
    """Triggers against the model as it is now.

    Args:
        classifier: the model that is hardened.
        victims: its training images.
        settings: of the hardening.
        generator: draws the images that tell the scale of the logits.
        chunk: images in one pass.
    """

    def __init__(
        self, classifier: Classifier, victims: Victims, settings: HardeningSettings, generator: torch.Generator, chunk: int
    ) -> None:
        self.family = family_of(settings.family, settings.pervasive)
        self.family.require_shape(classifier.image_shape)
        self.known: OrderedDict[Pair, Known] = OrderedDict()
        self._victims, self._settings = victims, settings
        clean = victims.pixels[victims.draw_any(512, generator)]
        speed = Speed(compile=False, chunk=chunk, pad=False)  # its weights change after every pick, and compiling takes seconds
        self.engine = Engine(classifier, clean[None], self._search(1), speed, clean, exact=False)
        self._fast = self.family.at(self.engine.copy.precision)

    def refresh(self, classifier: Classifier) -> None:
        """Search against the weights that the model has now."""
        self.engine.copy.refresh(classifier)

    def invert(self, arms: Sequence[Arm], steps: int, generator: torch.Generator) -> list[Inversion]:
        """One inversion for each direction of each arm, on newly drawn samples; `steps` for those that start from nothing."""
        pairs = [pair for arm in arms for pair in arm]
        drawn = [self._victims.draw(pair, self._settings.trigger_samples, generator) for pair in pairs]
        self.engine.samples = self._victims.pixels[torch.stack(drawn)]
        seeds = torch.randint(2**40, (len(pairs),), generator=generator).tolist()
        requests = [self._request(row, pair, seed) for row, (pair, seed) in enumerate(zip(pairs, seeds, strict=True))]
        made: dict[int, Inversion] = {}
        for fresh, length in ((True, steps), (False, self._settings.inversion)):
            part = [request for request in requests if (request.start is None) == fresh]
            if part:
                engine = copy.copy(self.engine)
                engine.settings = self._search(length, fresh)
                found = invert(engine, self._fast, part)  # as its engine, whose copy judges here
                made |= {request.row: inversion for request, inversion in zip(part, found, strict=True)}
        return [made[row] for row in range(len(requests))]

    def keep(self, inversion: Inversion) -> float:
        """Remember an inversion; returns the relative growth since the pair's last found trigger (Eq. 6), NaN if unknown."""
        before = self.distance(inversion.pair)
        found = inversion.outcome is Outcome.FOUND
        if inversion.outcome is not Outcome.NOT_FINITE:
            size = inversion.size if found else before
            self.known[inversion.pair] = Known(inversion.trigger, size, inversion.weight, found)
            self.known.move_to_end(inversion.pair)
            self._forget()
        return (inversion.size - before) / before if found and before > 0 else math.nan

    def distance(self, pair: Pair) -> float:
        """Size of the pair's last found trigger; before there is one, the universal trigger's (the first d of Eq. 6)."""
        for candidate in (pair, Pair(None, pair.target)):
            known = self.known.get(candidate)
            if known is not None and math.isfinite(known.size):
                return known.size
        return math.nan

    def sizes(self) -> dict[Pair, float]:
        """Of the pairs that have been inverted; of the universal triggers where none has."""
        found = {pair: known.size for pair, known in self.known.items() if math.isfinite(known.size)}
        return {pair: size for pair, size in found.items() if pair.victim is not None} or found

    def mean_distance(self) -> float:
        """Mean of these sizes; NaN where there are none."""
        sizes = self.sizes()
        return sum(sizes.values()) / len(sizes) if sizes else math.nan

    def stamped(self, pairs: Sequence[Pair], images: Float[Tensor, "n each c h w"]) -> Float[Tensor, "n each c h w"]:
        """Each pair's latest trigger on its own images in [0, 1]."""
        triggers = [self.known[pair].trigger for pair in pairs]
        stacked = {name: torch.stack([t[name] for t in triggers]).to(images.device) for name in triggers[0]}
        with torch.no_grad():
            return self._fast.stamp(stacked, images)

    def loss_change(self, pair: Pair, indices: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """By how much the pair's trigger lowers each image's cross entropy to the target (Eq. 4).

        The first loss is that of the clean image: what a random first trigger adds to it is noise.
        """
        images = self._victims.pixels[indices].float() / 255
        both = torch.cat([images, self.stamped([pair], images[None])[0]])
        target = torch.full((len(both),), pair.target, device=images.device)
        losses = torch.nn.functional.cross_entropy(self.engine.copy.logits(both), target, reduction="none")
        return (losses[: len(images)] - losses[len(images) :]).cpu()

    def tensors(self) -> dict[str, Tensor]:
        """The triggers, stacked, for a checkpoint."""
        if not self.known:
            return {}
        names = next(iter(self.known.values())).trigger
        return {name: torch.stack([known.trigger[name] for known in self.known.values()]) for name in names}

    def facts(self) -> list[list[Any]]:
        """Everything else about the triggers, in the order of `tensors`; None stands for NaN."""
        return [
            [pair.victim, pair.target, known.size if math.isfinite(known.size) else None, known.weight, known.found]
            for pair, known in self.known.items()
        ]

    def restore(self, tensors: Mapping[str, Tensor], facts: Iterable[Sequence[Any]]) -> None:
        """Take up what `tensors` and `facts` gave."""
        self.known = OrderedDict(
            (Pair(victim, target), Known({name: t[i].clone() for name, t in tensors.items()}, _number(size), weight, found))
            for i, (victim, target, size, weight, found) in enumerate(facts)
        )

    def _request(self, row: int, pair: Pair, seed: int) -> Request:
        """Warm where triggers are reused: from a fainter one that worked, or on with one that did not yet."""
        known = self.known.get(pair) if self._settings.reuse else None
        if known is None:
            return Request(pair, row, seed)
        start = self.family.shrunk(known.trigger, self._settings.shrink) if known.found else known.trigger
        return Request(pair, row, seed, start, known.weight)

    def _search(self, steps: int, fresh: bool = True) -> InversionSettings:
        """A short search from one start, tested once, at its end."""
        stage = Stage(1, steps, min(8, self._settings.trigger_samples), (0.3, 0.1), accept_every=steps)
        lower = 1.1  # a warm search has no time to recover from a weight that falls faster than it rises
        raised = 1.05 if fresh else lower
        settings = InversionSettings((stage,), asr=self._settings.asr, weight=2.0, ease=1.0)
        return replace(settings, raise_by=raised, lower_by=lower)

    def _forget(self) -> None:
        each = sum(tensor.nbytes for tensor in next(iter(self.known.values())).trigger.values())
        while len(self.known) * each > _MOST_BYTES and len(self.known) > 1:
            self.known.popitem(last=False)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
