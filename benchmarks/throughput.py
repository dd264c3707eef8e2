"""Image-steps per second: the yardstick against our loop, in turns, in one run; the convolution limit; where the rest goes.

An image-step is one sample through stamping, model, loss, gradients and Adam. Both search the same pairs of the same model on
the same images. The limit is what the network's convolutions alone would allow: each is timed by itself, forward and (as one
more convolution) its input gradient, in the precision, layout and chunk of our copy, with packed weights where PyTorch has them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from common import Record, add_subject, balanced, clock, device_of, pairs_of, parser, show, subject
from limit import convolution_limit
from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.inversion import Request, invert
from orthogon.pairs import Pair
from orthogon.protocols import PROTOCOLS, Stage
from orthogon.triggers import Patch, TriggerFamily
from yardstick import Search, YardstickSettings

TICK = 8
"""Steps between two calls of `invert`'s `on_progress`, the first after one step."""


@dataclass(frozen=True, eq=False)
class Contest:
    """What both loops work on."""

    classifier: Classifier
    samples: Tensor
    """Bytes (victims, count, c, h, w)."""
    pairs: list[Pair]
    """As many as we search together; the yardstick takes one of them per round."""
    rows: list[int]
    """Of the samples, for each pair."""

    @classmethod
    def drawn(cls, args: argparse.Namespace) -> Contest:
        """From the command line."""
        classifier, images = subject(args)
        images = balanced(images, args.samples, args.seed)
        every = pairs_of("all", classifier, args.seed)
        tasks = args.tasks or (16 if device_of(classifier).type == "cpu" else 512)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(args.seed)).tolist()
        pairs = [every[order[n % len(every)]] for n in range(tasks)]
        return cls(classifier, _rows(images, classifier), pairs, [pair.victim or 0 for pair in pairs])

    @property
    def requests(self) -> list[Request]:
        """Ours."""
        return [Request(pair, row, n) for n, (pair, row) in enumerate(zip(self.pairs, self.rows, strict=True))]

    @property
    def device(self) -> torch.device:
        """Of both."""
        return device_of(self.classifier)


def _rows(images: LabelledImages, classifier: Classifier) -> Tensor:
    return torch.stack([images.of_class(c).pixels for c in range(len(classifier.classes))])


def yardstick_rate(contest: Contest, turn: int, epochs: int) -> float:
    """Image-steps per second of the yardstick on one pair, its first epoch not counted."""
    images = contest.samples[contest.rows[turn]].to(contest.device).float() / 255
    search = Search(contest.classifier, images, contest.pairs[turn].target, YardstickSettings(), turn)
    search.epoch()
    began = clock(contest.device)
    for _ in range(epochs):
        search.epoch()
    return epochs * len(images) / (clock(contest.device) - began)


def our_engine(contest: Contest, args: argparse.Namespace) -> Engine:
    """Our frozen copy with the samples, made for steps of one kind."""
    stage = Stage(restarts=1, steps=1, batch=args.batch, rates=(0.1, 0.1), accept_every=10**9)
    settings = replace(PROTOCOLS[args.protocol].settings, stages=(stage,))
    chunk = args.chunk or (128 if contest.device.type == "cpu" else 2048)
    return Engine(contest.classifier, contest.samples, settings, Speed(compile=not args.no_compile, chunk=chunk))


def our_rate(contest: Contest, engine: Engine, ticks: int) -> float:
    """Image-steps per second of our loop, from its first step to its last, acceptance tests not counted."""
    stamps: list[float] = []
    steps(engine, Patch(), contest.requests, ticks, lambda: stamps.append(clock(contest.device)))
    images = TICK * len(contest.pairs) * engine.settings.stages[0].batch
    return images * ticks / (stamps[-1] - stamps[0])


def steps(engine: Engine, family: TriggerFamily, requests: Sequence[Request], ticks: int, on_tick: Callable[[], None]) -> None:
    """1 + 8 × ticks steps of our loop; `on_tick` is called after the first, the ninth, …"""
    stage = replace(engine.settings.stages[0], steps=TICK * ticks + 1)
    engine.settings = replace(engine.settings, stages=(stage,))
    invert(engine, family, requests, lambda _: on_tick())


KINDS = {
    "convolutions": ("conv", "implicit_gemm", "xmma", "cutlass", "cudnn", "wgrad", "dgrad", "fprop"),
    "compiled pointwise": ("compiled", "inductor", "triton", "cpp_fused", "graph"),
    "matrix products": ("addmm", "aten::mm", "linear", "gemm", "mkl"),
    "optimiser": ("lerp_", "addcdiv_", "addcmul_", "sqrt_"),
    "copies": ("copy", "contiguous", "clone", "cat", "index", "gather", "scatter", "memcpy", "memset", "pad"),
}
"""Parts of the names of operators and kernels, looked for in this order; the rest is "pointwise and bookkeeping"."""
REST = "pointwise and bookkeeping"


def where_time_goes(contest: Contest, engine: Engine) -> dict[str, float]:
    """Shares of the time of eight steps by kind; what no operator or kernel accounts for is Python (or an idle GPU)."""
    cuda = contest.device.type == "cuda"
    watched = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])
    stamps: list[float] = []

    def tick() -> None:
        if stamps:
            stamps.append(clock(contest.device))
            watched.stop()
        else:
            watched.start()
            stamps.append(clock(contest.device))

    steps(engine, Patch(), contest.requests, 1, tick)
    seconds = dict.fromkeys([*KINDS, REST], 0.0)
    for event in watched.key_averages():
        if not cuda or event.device_type == torch.autograd.DeviceType.CUDA:
            seconds[_kind(event.key)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    wall = stamps[1] - stamps[0]
    idle = "idle GPU" if cuda else "python"
    return {kind: part / wall for kind, part in {**seconds, idle: max(0.0, wall - sum(seconds.values()))}.items()}


def _kind(name: str) -> str:
    name = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def main() -> None:
    """Time both loops in turns, beside the limit, and write the rates."""
    words = parser(__doc__, "throughput")
    add_subject(words)
    words.add_argument("--rounds", type=int, default=7, help="turns of each (default: %(default)s)")
    words.add_argument("--epochs", type=int, default=10, help="of the yardstick per turn (default: %(default)s)")
    words.add_argument("--ticks", type=int, default=3, help="eight steps of ours each, per turn (default: %(default)s)")
    words.add_argument("--tasks", type=int, help="searches in our batch (default: 16; 512 on a GPU)")
    words.add_argument("--batch", type=int, default=24, help="samples per search and step (default: %(default)s)")
    words.add_argument("--chunk", type=int, help="images per pass of our copy (default: 128; 2048 on a GPU)")
    words.add_argument("--samples", type=int, default=100, help="images per victim class (default: %(default)s)")
    words.add_argument("--protocol", choices=list(PROTOCOLS), default="fast", help="whose loss and focus we use")
    words.add_argument("--no-compile", action="store_true", help="our copy without a compiler")
    args = words.parse_args()
    args.fresh = True  # a rate is one process's: never taken up again
    contest, record = Contest.drawn(args), Record(args)
    began = clock(contest.device)
    engine = our_engine(contest, args)
    made = clock(contest.device) - began
    our_rate(contest, engine, 1)
    turns = [
        (yardstick_rate(contest, turn % len(contest.pairs), args.epochs), our_rate(contest, engine, args.ticks))
        for turn in range(args.rounds)
    ]
    theirs, ours = (statistics.median(rates) for rates in zip(*turns, strict=True))
    one = torch.zeros(1, *contest.classifier.image_shape, device=contest.device)
    limit = convolution_limit(contest.classifier, one, engine.copy.precision, engine.copy.chunk)
    shares = where_time_goes(contest, engine)
    summary: dict[str, Any] = {
        **{"yardstick": theirs, "ours": ours, "ratio": ours / theirs},
        **{"convolution_limit": limit.images_per_second, "share_of_limit": ours / limit.images_per_second},
        "median_of_ratios": statistics.median(our / their for their, our in turns),
        "engine_seconds": made,
        "copy": f"{engine.copy.precision}, chunk {engine.copy.chunk}, {'compiled' if engine.copy.compiled else 'eager'}",
    }
    record.parts.update({"turns": [list(turn) for turn in turns], "shares": shares, "convolutions": limit.rows})
    show("image-steps per second", ["figure", "value"], list(summary.items()))
    show("where our time goes (under the profiler)", ["kind", "share"], list(shares.items()))
    record.finish(**summary)


if __name__ == "__main__":
    main()
