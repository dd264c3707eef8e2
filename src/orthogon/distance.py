"""Class distances: for every (victim, target) pair, the size of the smallest trigger (MOTH, sections III and V-A)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from orthogon.classifier import Classifier, require_match
from orthogon.engine import Engine
from orthogon.frozen import Speed, speed_for
from orthogon.images import LabelledImages, shuffled
from orthogon.inversion import Request, invert
from orthogon.machine import device_of, free_gib
from orthogon.matrix import DistanceMatrix, plain
from orthogon.memory import Parts
from orthogon.pairs import Inversion, Outcome, Pair, choose_pairs, require_pair
from orthogon.protocols import InversionSettings, Protocol, named
from orthogon.triggers import Patch, TriggerFamily


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a measurement is."""

    done: float
    """Share of the work, 0 to 1."""
    pairs_done: int
    pairs: int


@dataclass(frozen=True, eq=False)
class Measurement:
    """A matrix and the inversions behind it, in the order of the pairs asked for."""

    matrix: DistanceMatrix
    inversions: list[Inversion]


def measure(
    classifier: Classifier,
    images: LabelledImages,
    *,
    pairs: Sequence[Pair] | None = None,
    family: TriggerFamily | None = None,
    protocol: str | Protocol = "fast",
    seed: int = 0,
    samples: int | None = None,
    draws: int = 1,
    memory: float | None = None,
    device: str | torch.device | None = None,
    speed: Speed | None = None,
    finished: Mapping[Pair, Inversion] | None = None,
    on_finished: Callable[[Inversion], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Measurement:
    """Measure class distances.

    A pair's result depends on the seed and the pair, not on which other pairs were measured before an interruption; by which
    others are asked for it is decided whether searching is worth a compiled copy of the model, whose last digits differ.

    Args:
        classifier: the model; it is moved to `device`.
        images: from which each victim's samples are drawn, by seed.
        pairs: default: all.
        family: of triggers; default: patches.
        protocol: a name in `protocols.PROTOCOLS`, or a protocol of your own.
        seed: of the samples and the searches.
        samples: images per victim, instead of the protocol's.
        draws: how often the samples are drawn anew; a pair's distance is then the mean, its spread the deviation.
        memory: GiB that the searches may take; default: a quarter of what is free.
        device: default: where the classifier is.
        speed: precision, compilation and chunk; default: what suits the machine and the size of the job.
        finished: inversions that need not be made again.
        on_finished: told each inversion as it is done, for a resumable run.
        on_progress: told the state now and then.

    Raises:
        ValueError: an unknown protocol, images of another shape or with other classes than the classifier's or that the
                family cannot stamp, or a network in another precision than float32.
    """
    family = family or Patch()
    protocol = _chosen(protocol, samples, family)
    _require_numbers(memory, draws)
    require_match(classifier, images)
    family.require_shape(classifier.image_shape)
    ledger = _Ledger(_wanted(pairs, len(classifier.classes)), finished or {}, on_finished, on_progress)
    started = time.monotonic()
    usable = ledger.usable(images.counts(), protocol.samples)
    if any(pair not in ledger.done for pair in usable):
        classifier.to(device or device_of(classifier))
        speed = speed or speed_for(classifier, protocol.settings.image_steps * len(usable) * draws)
        search = _Search(classifier, _Samples(images, protocol.samples, draws, seed), usable, family, protocol, speed, ledger)
        Parts(_group(search.engine, family, protocol.settings, draws, memory))(search.part, len(usable))
        ledger.tell(1.0)
    facts = {"samples": protocol.samples, "draws": draws, "seed": seed, "seconds": time.monotonic() - started}
    if described := family.described():
        facts["measured_by"] = described
    inversions = [ledger.done[pair] for pair in ledger.wanted]
    return Measurement(_matrix(inversions, classifier.classes, protocol, family, facts), inversions)


_PAIRS_AT_ONCE = {"cpu": 16, "cuda": 96}
"""Sixteen pairs fill a CPU's batches, and an interruption loses no more than their work."""


class _Ledger:
    """The pairs that are asked for, what is known of them, and who is told of it."""

    def __init__(
        self,
        wanted: list[Pair],
        finished: Mapping[Pair, Inversion],
        on_finished: Callable[[Inversion], None] | None,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        asked = set(wanted)
        self.wanted, self._on_finished, self._on_progress = wanted, on_finished, on_progress
        self.done = {pair: inversion for pair, inversion in finished.items() if pair in asked}

    def finish(self, inversion: Inversion) -> None:
        """Put a pair down as done."""
        self.done[inversion.pair] = inversion
        if self._on_finished is not None:
            self._on_finished(inversion)

    def usable(self, counts: Sequence[int], samples: int) -> list[Pair]:
        """The pairs whose victims have enough images, done or not; the others are put down as done, with that outcome."""
        enough = {pair: _available(counts, pair) >= samples for pair in self.wanted}
        for pair in self.wanted:
            if pair not in self.done and not enough[pair]:
                self.finish(Inversion(pair, Outcome.SAMPLES, math.nan, math.nan, {}))
        return [pair for pair in self.wanted if enough[pair]]

    def tell(self, share: float) -> None:
        """Tell the share of the work that is done, 0 to 1."""
        if self._on_progress is not None:
            self._on_progress(Progress(share, len(self.done), len(self.wanted)))


class _Search:
    """The searches for the pairs that are not done, a part of them at a time."""

    def __init__(
        self,
        classifier: Classifier,
        drawn: _Samples,
        usable: list[Pair],
        family: TriggerFamily,
        protocol: Protocol,
        speed: Speed,
        ledger: _Ledger,
    ) -> None:
        self._drawn, self._usable, self._family, self._ledger = drawn, usable, family, ledger
        pixels, _ = drawn.rows(usable[:1])
        self.engine = Engine(classifier, pixels, protocol.settings, speed, drawn.clean())

    def part(self, first: int, last: int) -> None:
        """Search those of the usable pairs from `first` to before `last` that are not done."""
        batch = [pair for pair in self._usable[first:last] if pair not in self._ledger.done]
        if not batch:
            return
        pixels, rows = self._drawn.rows(batch)
        self.engine.samples = pixels.to(self.engine.device)
        draws, seed = self._drawn.draws, self._drawn.seed
        requests = [_request(pair, row, d, seed) for pair, row in zip(batch, rows, strict=True) for d in range(draws)]
        inversions = invert(self.engine, self._family, requests, partial(self._tell, first, len(batch)))
        for i in range(0, len(inversions), draws):
            self._ledger.finish(_merged(inversions[i : i + draws]))

    def _tell(self, first: int, size: int, share: float) -> None:
        self._ledger.tell((first + share * size) / len(self._usable))


class _Samples:
    """Draws each victim's samples, by the seed and the victim alone."""

    def __init__(self, images: LabelledImages, count: int, draws: int, seed: int) -> None:
        self.draws, self.seed = draws, seed
        self._images, self._count = images, count
        self._members = [(images.labels == c).nonzero().flatten() for c in range(len(images.classes))]

    def rows(self, pairs: Sequence[Pair]) -> tuple[UInt8[Tensor, "rows count c h w"], list[int]]:
        """The pixels that these pairs need, a row per victim and draw, and the first row of each pair."""
        numbers: dict[tuple[int | None, int], int] = {}
        drawn: list[Tensor] = []
        for pair in pairs:
            key = self._key(pair)
            if key not in numbers:
                numbers[key] = len(drawn)
                seeds = [_hashed(self.seed, "samples", *key, d) for d in range(self.draws)]
                drawn += [self._draw(pair, torch.Generator().manual_seed(s)) for s in seeds]
        return self._images.pixels[torch.stack(drawn)], [numbers[self._key(pair)] for pair in pairs]

    def clean(self, count: int = 512) -> UInt8[Tensor, "n c h w"]:
        """Images of any class, the same whichever pairs are measured."""
        generator = torch.Generator().manual_seed(_hashed(self.seed, "clean"))
        return self._images.pixels[torch.randperm(len(self._images), generator=generator)[:count]]

    @staticmethod
    def _key(pair: Pair) -> tuple[int | None, int]:
        """Pairs with one victim share its row; a universal pair has the row of everything but its target."""
        return pair.victim, pair.target if pair.victim is None else -1

    def _draw(self, pair: Pair, generator: torch.Generator) -> Int64[Tensor, " count"]:
        """Indices of images of the victim, or of all classes but the target, about as many of each; of more classes than
        images, of some."""
        count = self._count
        if pair.victim is not None:
            return shuffled(self._members[pair.victim], generator)[:count]
        others = [members for c, members in enumerate(self._members) if c != pair.target and len(members)]
        if len(others) > count:
            others = [others[c] for c in shuffled(torch.arange(len(others)), generator)[:count].tolist()]
        drawn = [shuffled(members, generator)[:count].tolist() for members in others]
        in_turn = (indices[i] for i in range(count) for indices in drawn if i < len(indices))
        return torch.tensor(list(islice(in_turn, count)), dtype=torch.int64)


def _available(counts: Sequence[int], pair: Pair) -> int:
    return sum(counts) - counts[pair.target] if pair.victim is None else counts[pair.victim]


def _wanted(pairs: Sequence[Pair] | None, classes: int) -> list[Pair]:
    """The pairs to measure, each once; all where none are named."""
    if pairs is None:
        return choose_pairs("all", classes, torch.Generator())
    for pair in pairs:
        require_pair(pair, classes, str(pair))
    return list(dict.fromkeys(pairs))


def _require_numbers(memory: float | None, draws: int) -> None:
    if memory is not None and not 0 < memory < math.inf:
        raise ValueError(f"memory must be above 0 GiB, got {memory}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")


def _chosen(protocol: str | Protocol, samples: int | None, family: TriggerFamily) -> Protocol:
    if isinstance(protocol, str):
        protocol = named(protocol, family.name)
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return protocol if samples is None else replace(protocol, samples=samples)


def _group(engine: Engine, family: TriggerFamily, settings: InversionSettings, draws: int, memory: float | None) -> int:
    """Pairs to search at once: no more than fill the machine, and than fit into half of the memory allowed."""
    image = engine.samples[0, 0].numel() * 4
    widest = max(stage.restarts for stage in settings.stages)
    busiest = max(stage.restarts * stage.batch for stage in settings.stages)
    own = family.footprint(engine.judge.image_shape, widest, engine.count)
    each = draws * (image * (12 * widest + 8 * busiest) + own)
    budget = (memory if memory is not None else free_gib(engine.device) / 4) * 2**30
    most = _PAIRS_AT_ONCE["cuda" if engine.device.type == "cuda" else "cpu"] // draws
    return max(1, min(most, int(budget / 2 / each)))


def _request(pair: Pair, row: int, draw: int, seed: int) -> Request:
    return Request(pair, row + draw, _hashed(seed, "search", pair.victim, pair.target, draw))


def _merged(draws: list[Inversion]) -> Inversion:
    """One inversion for all draws of samples: found if all were, and then of their mean size."""
    if len(draws) == 1:
        return draws[0]
    failed = [inversion for inversion in draws if inversion.outcome is not Outcome.FOUND]
    if failed:
        return failed[0]
    sizes = tuple(inversion.size for inversion in draws)
    smallest = min(draws, key=lambda inversion: inversion.size)
    return replace(smallest, size=sum(sizes) / len(sizes), asr=min(d.asr for d in draws), restarts=sizes)


def _matrix(
    inversions: Sequence[Inversion],
    classes: tuple[str, ...],
    protocol: Protocol,
    family: TriggerFamily,
    facts: dict[str, Any],
) -> DistanceMatrix:
    n = len(classes)
    values, asr, spread = (torch.full((n, n), math.nan) for _ in range(3))
    outcomes: list[list[str | None]] = [[None] * n for _ in range(n)]
    universal = []
    for inversion in inversions:
        victim, target = inversion.pair.victim, inversion.pair.target
        if victim is None:
            row = {"target": target, "value": plain(inversion.size), "asr": plain(inversion.asr)}
            universal.append({**row, "outcome": str(inversion.outcome)})
            continue
        values[victim, target], asr[victim, target] = inversion.size, inversion.asr
        spread[victim, target] = inversion.spread
        outcomes[victim][target] = str(inversion.outcome)
    facts = {**facts, "universal": universal} if universal else facts
    frozen = tuple(tuple(row) for row in outcomes)
    return DistanceMatrix(values, asr, spread, frozen, classes, family.unit, protocol.name, family.name, facts)


def _hashed(*parts: object) -> int:
    """A seed of its own for each use, from the user's one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")
