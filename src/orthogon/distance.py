"""Class distances: for every (victim, target) pair, the size of the smallest trigger (MOTH, sections III and V-A)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.inversion import Request, invert
from orthogon.pairs import Inversion, Outcome, Pair, choose_pairs
from orthogon.protocols import PROTOCOLS, Protocol
from orthogon.triggers import Patch, TriggerFamily


@dataclass(frozen=True, eq=False)
class DistanceMatrix:
    """Distances of a model's class pairs: rows are victims, columns targets, NaN where there is no distance."""

    values: Float[Tensor, "victims targets"]
    asr: Float[Tensor, "victims targets"]
    """Share of the samples that the pair's trigger turns, 0 to 1."""
    spread: Float[Tensor, "victims targets"]
    """Standard deviation of the size over the searches (or sample draws) of a pair."""
    outcomes: tuple[tuple[str | None, ...], ...]
    """As `inversion.Outcome`; None for a pair that was not measured."""
    classes: tuple[str, ...]
    unit: str
    protocol: str
    family: str
    facts: dict[str, Any] = dataclass_field(default_factory=dict)
    """What else is known: settings, versions, hashes, seconds, accuracy, universal triggers."""

    def mean(self) -> float:
        """Mean over the pairs that have a distance; NaN where none has."""
        return float(self.values[self.values.isfinite()].mean())

    def to_json(self) -> dict[str, Any]:
        """The record of distances.json; null stands for NaN."""
        grids = {"values": self.values, "asr": self.asr, "spread": self.spread}
        return {
            "unit": self.unit,
            "protocol": self.protocol,
            "family": self.family,
            "classes": list(self.classes),
            **{name: [[_plain(v) for v in row] for row in grid.tolist()] for name, grid in grids.items()},
            "outcomes": [list(row) for row in self.outcomes],
            **self.facts,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DistanceMatrix:
        """The matrix of a record; `asr`, `outcomes` and `spread` may be missing.

        Raises:
            KeyError, TypeError, ValueError: the record is not one of distances.
        """
        known = {"unit", "protocol", "family", "classes", "values", "asr", "spread", "outcomes"}
        classes = tuple(str(name) for name in record["classes"])
        values = _grid(record["values"], len(classes))
        outcomes = record.get("outcomes") or [[None if math.isnan(v) else "found" for v in r] for r in values.tolist()]
        if [len(row) for row in outcomes] != [len(classes)] * len(classes):
            raise ValueError(f"outcomes must be {len(classes)} rows of {len(classes)}")
        return cls(
            values=values,
            asr=_grid(record.get("asr"), len(classes)),
            spread=_grid(record.get("spread"), len(classes)),
            outcomes=tuple(tuple(row) for row in outcomes),
            classes=classes,
            unit=str(record["unit"]),
            protocol=str(record["protocol"]),
            family=str(record["family"]),
            facts={key: value for key, value in record.items() if key not in known},
        )


def improvement(before: DistanceMatrix, after: DistanceMatrix) -> float:
    """Average relative increase of the distance over the pairs that both matrices have (MOTH, Eq. 8); 1.0 is +100 %.

    NaN where no pair has both, and a pair of distance 0 before is left out: it has no relative increase.

    Raises:
        ValueError: the matrices differ in unit, family or classes.
    """
    for name in ("unit", "family", "classes"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            raise ValueError(f"distances of different {name} cannot be compared: {old} and {new}")
    growth = (after.values - before.values) / before.values
    return float(growth[growth.isfinite()].mean())


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a measurement is."""

    done: float
    """Share of the work, 0 to 1."""
    pairs_done: int
    pairs: int
    note: str = ""


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

    A pair's result depends on the seed and the pair, not on which other pairs are measured, or were before an interruption.

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
        ValueError: an unknown protocol, or images of another shape or with other classes than the classifier's.
    """
    job = _Job.planned(classifier, images, family or Patch(), protocol, seed, samples, draws)
    wanted = list(pairs) if pairs is not None else choose_pairs("all", len(classifier.classes), torch.Generator())
    done: dict[Pair, Inversion] = {pair: inv for pair, inv in (finished or {}).items() if pair in set(wanted)}
    started = time.monotonic()

    def finish(inversion: Inversion) -> None:
        done[inversion.pair] = inversion
        if on_finished is not None:
            on_finished(inversion)

    open_pairs = [pair for pair in wanted if pair not in done]
    for pair in [p for p in open_pairs if not job.has_samples(p)]:
        finish(Inversion(pair, Outcome.SAMPLES, math.nan, math.nan, {}))
    open_pairs = [pair for pair in open_pairs if pair not in done]
    if open_pairs:
        classifier.to(device or job.home)
        engine = job.engine(open_pairs, speed)
        group = job.group(engine.device, memory)
        for first in range(0, len(open_pairs), group):
            batch = open_pairs[first : first + group]

            def progressed(share: float, first: int = first, batch: Sequence[Pair] = batch) -> None:
                if on_progress is not None:
                    share = (first + share * len(batch)) / len(open_pairs)
                    on_progress(Progress(share, len(done), len(wanted)))

            for inversion in job.inverted(engine, batch, progressed):
                finish(inversion)
            progressed(1.0)
    inversions = [done[pair] for pair in wanted]
    facts = {"samples": job.protocol.samples, "draws": draws, "seed": seed, "seconds": time.monotonic() - started}
    return Measurement(_matrix(inversions, classifier.classes, job, facts), inversions)


@dataclass(frozen=True, eq=False)
class _Job:
    """What is measured, how, and on which samples."""

    classifier: Classifier
    images: LabelledImages
    family: TriggerFamily
    protocol: Protocol
    seed: int
    draws: int
    home: torch.device
    rows: dict[tuple[int | None, int], int] = dataclass_field(default_factory=dict)

    @classmethod
    def planned(
        cls,
        classifier: Classifier,
        images: LabelledImages,
        family: TriggerFamily,
        protocol: str | Protocol,
        seed: int,
        samples: int | None,
        draws: int,
    ) -> _Job:
        if isinstance(protocol, str):
            if protocol not in PROTOCOLS:
                raise ValueError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
            protocol = PROTOCOLS[protocol]
        if samples is not None:
            protocol = replace(protocol, samples=samples)
        if protocol.samples < 1 or draws < 1:
            raise ValueError(f"samples and draws must be at least 1, got {protocol.samples} and {draws}")
        if len(images.classes) != len(classifier.classes):
            raise ValueError(f"the images have {len(images.classes)} classes, the model {len(classifier.classes)}")
        if images.image_shape != classifier.image_shape:
            raise ValueError(f"the images are {images.image_shape}, the model takes {classifier.image_shape}")
        home = next((p.device for p in classifier.parameters()), torch.device("cpu"))
        return cls(classifier, images, family, protocol, seed, draws, home)

    def has_samples(self, pair: Pair) -> bool:
        """Whether the pair's victim has as many images as the protocol wants."""
        counts = self.images.counts()
        if pair.victim is not None:
            return counts[pair.victim] >= self.protocol.samples
        return sum(counts) - counts[pair.target] >= self.protocol.samples

    def engine(self, pairs: Sequence[Pair], speed: Speed | None) -> Engine:
        """The model made ready, with the samples of all these pairs; compiled where the job is long enough."""
        keys = dict.fromkeys((pair.victim, pair.target if pair.victim is None else -1) for pair in pairs)
        pixels = [self._drawn(key, draw) for key in keys for draw in range(self.draws)]
        self.rows.update({key: i * self.draws for i, key in enumerate(keys)})
        settings = self.protocol.settings
        if speed is None:
            long = settings.image_steps * len(pairs) * self.draws >= _WORTH_COMPILING
            speed = Speed(compile=long, chunk=_chunk(self.classifier.image_shape, self.device))
        return Engine(self.classifier, torch.stack(pixels), settings, speed)

    @property
    def device(self) -> torch.device:
        """Where the classifier is now."""
        return next((p.device for p in self.classifier.parameters()), torch.device("cpu"))

    def _drawn(self, key: tuple[int | None, int], draw: int) -> UInt8[Tensor, "count c h w"]:
        """The samples of one row: of a class, or of all classes but one, about as many of each."""
        victim, target = key
        generator = torch.Generator().manual_seed(_hashed(self.seed, "samples", *key, draw))
        count = self.protocol.samples
        if victim is not None:
            return self.images.draw(victim, count, generator).pixels
        others = [c for c in range(len(self.images.classes)) if c != target]
        orders = [self.images.draw(c, count, generator).pixels for c in others]
        rounds = [order[i] for i in range(count) for order in orders if i < len(order)]
        return torch.stack(rounds[:count])

    def group(self, device: torch.device, memory: float | None) -> int:
        """Pairs to search at once: as many as memory allows, no more than fill the machine."""
        channels, height, width = self.classifier.image_shape
        budget = (memory if memory is not None else _free_gib(device) / 4) * 2**30
        widest = max(s.restarts for s in self.protocol.settings.stages)
        busiest = max(s.restarts * s.batch for s in self.protocol.settings.stages)
        image = channels * height * width * 4
        each = self.draws * (widest * 12 * image + busiest * 8 * image)
        most = _PAIRS_AT_ONCE["cuda" if device.type == "cuda" else "cpu"] // self.draws
        return max(1, min(most, int(budget / 2 / each)))

    def inverted(self, engine: Engine, pairs: Sequence[Pair], on_progress: Callable[[float], None]) -> list[Inversion]:
        """One inversion per pair, merged over the sample draws."""
        requests = [self._request(pair, draw) for pair in pairs for draw in range(self.draws)]
        results = invert(engine, self.family, requests, on_progress)
        return [_merged(results[i : i + self.draws]) for i in range(0, len(results), self.draws)]

    def _request(self, pair: Pair, draw: int) -> Request:
        row = self.rows[(pair.victim, pair.target if pair.victim is None else -1)] + draw
        return Request(pair, row, _hashed(self.seed, "search", pair.victim, pair.target, draw))


_WORTH_COMPILING = 150_000
"""Image-steps from which a compiled copy has won back the seconds that compiling takes, on the two-core machine measured."""
_PAIRS_AT_ONCE = {"cpu": 16, "cuda": 96}
"""Sixteen pairs fill a CPU's batches, and an interruption loses no more than their work."""


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


def _matrix(inversions: Sequence[Inversion], classes: tuple[str, ...], job: _Job, facts: dict[str, Any]) -> DistanceMatrix:
    n = len(classes)
    values, asr, spread = (torch.full((n, n), math.nan) for _ in range(3))
    outcomes: list[list[str | None]] = [[None] * n for _ in range(n)]
    universal = []
    for inversion in inversions:
        victim, target = inversion.pair.victim, inversion.pair.target
        if victim is None:
            row = {"target": target, "value": _plain(inversion.size), "asr": _plain(inversion.asr)}
            universal.append({**row, "outcome": str(inversion.outcome)})
            continue
        values[victim, target], asr[victim, target] = inversion.size, inversion.asr
        spread[victim, target] = inversion.spread
        outcomes[victim][target] = str(inversion.outcome)
    facts = {**facts, "universal": universal} if universal else facts
    frozen = tuple(tuple(row) for row in outcomes)
    return DistanceMatrix(values, asr, spread, frozen, classes, job.family.unit, job.protocol.name, job.family.name, facts)


def _hashed(*parts: object) -> int:
    """A seed of its own for each use, from the user's one."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big")


def _chunk(image_shape: tuple[int, int, int], device: torch.device) -> int:
    """Images per pass: on a CPU what stays in the caches, on a GPU what fills it; fewer where images are larger."""
    at_32 = 2048 if device.type == "cuda" else 128
    return max(8, int(at_32 * (32 * 32) / (image_shape[1] * image_shape[2])))


def _free_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) / 2**20
    except (OSError, KeyError):
        return 8.0


def _plain(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _grid(rows: Any, n: int) -> Float[Tensor, "n n"]:
    if rows is None:
        return torch.full((n, n), math.nan)
    if [len(row) for row in rows] != [n] * n:
        raise ValueError(f"a matrix of {n} classes needs {n} rows of {n}, got {[len(row) for row in rows]}")
    return torch.tensor([[math.nan if v is None else float(v) for v in row] for row in rows])
