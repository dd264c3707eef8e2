"""Time to a matrix: our `fast` protocol against the yardstick, on a seeded sample of pairs and the same images.

Ours measures all of the pairs, since it searches many at once; the yardstick, which takes one after the other, can be timed on
some of them (`--timed`), and its time is then scaled to all. Means are compared over the pairs that both have.

The file under benchmarks/results/ is written after every pair, and the same command goes on from there. The yardstick's
triggers are read off by both rules of acceptance (see yardstick.py). Its time to our mean distance is the budget per pair, the
same for every pair, after which the mean of its smallest triggers is no larger than ours; where it never is, all the time that
it had is a lower bound, and is called one.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from typing import Any

import torch

from common import Record, add_subject, balanced, device_of, label, pairs_of, parser, show, subject
from orthogon.classifier import Classifier
from orthogon.distance import measure
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.pairs import Pair
from orthogon.protocols import PROTOCOLS
from yardstick import Curve, Found, YardstickSettings, search_pair


def ours(classifier: Classifier, images: LabelledImages, pairs: list[Pair], args: argparse.Namespace) -> dict[str, Any]:
    """Measure the pairs with our protocol; seconds from nothing to the matrix, and to the end of the first step."""
    device, first = device_of(classifier), []
    compiled = Speed(compile=not args.no_compile, chunk=128 if device.type == "cpu" else 2048)
    began = time.perf_counter()
    measured = measure(
        *(classifier, images),
        pairs=pairs,
        protocol=args.protocol,
        seed=args.seed,
        samples=args.samples,
        speed=compiled,
        on_progress=lambda _: first.append(time.perf_counter() - began) if not first else None,
    )
    seconds = time.perf_counter() - began
    found = {
        label(i.pair): {"size": i.size, "asr": i.asr, "outcome": str(i.outcome), "spread": i.spread} for i in measured.inversions
    }
    return {"seconds": seconds, "preparation": first[0], "pairs": found}


def drawn(pairs: list[Pair], count: int | None, seed: int) -> list[Pair]:
    """The pairs that the yardstick is timed on."""
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:count]
    return [pairs[i] for i in order.sort().values.tolist()]


def budget_to(curves: list[Curve], mean: float) -> float:
    """Seconds that every pair must be given until the mean of the smallest sizes is at most `mean`; infinite if never."""
    moments = sorted({second for curve in curves for second in curve.seconds})
    low, high = 0, len(moments)  # the mean never grows with the budget
    while low < high:
        middle = (low + high) // 2
        reached = sum(curve.size_at(moments[middle]) for curve in curves) / len(curves) <= mean
        low, high = (low, middle) if reached else (middle + 1, high)
    return moments[low] if low < len(moments) else math.inf


def spent(found: list[Found], budget: float) -> float:
    """Seconds of all pairs when each stops after the budget, or earlier if it was done."""
    return sum(min(budget, pair.seconds) for pair in found)


def summarised(record: Record, pairs: list[Pair], every: int) -> dict[str, Any]:
    """The figures: means, times and their ratios; `every` is the number of pairs of the whole matrix."""
    we = record.parts["ours"]
    timed = [label(pair) for pair in pairs if label(pair) in record.parts]
    kept = [name for name in timed if we["pairs"][name]["size"] is not None]
    theirs = [Found.from_json(record.parts[name]) for name in kept]
    mean = sum(we["pairs"][name]["size"] for name in kept) / len(kept)
    amortised = we["seconds"] - we["preparation"] * (1 - len(pairs) / every)
    total = sum(pair.seconds for pair in theirs) * len(pairs) / len(kept)
    summary: dict[str, Any] = {
        **{"pairs": len(pairs), "pairs_timed": len(timed), "timed_found": len(kept), "our_mean": mean},
        **{"our_seconds": we["seconds"], "our_preparation": we["preparation"], "our_seconds_amortised": amortised},
        "our_lowest_asr": min(we["pairs"][name]["asr"] for name in kept),
        **{"yardstick_seconds": total, "ratio": total / we["seconds"], "ratio_amortised": total / amortised},
    }
    for rule in ("own", "honest"):
        curves: list[Curve] = [getattr(pair, rule) for pair in theirs]
        budget = budget_to(curves, mean)
        needed = spent(theirs, budget) * len(pairs) / len(kept)
        summary |= {
            f"yardstick_mean_{rule}": sum(curve.size for curve in curves) / len(curves),
            f"reached_our_mean_{rule}": math.isfinite(budget),
            f"seconds_to_our_mean_{rule}": needed,
            f"ratio_to_our_mean_{rule}": needed / amortised,
            f"pairs_reached_{rule}": sum(
                curve.size <= we["pairs"][name]["size"] for name, curve in zip(kept, curves, strict=True)
            ),
        }
    return summary


def tell(record: Record, pairs: list[Pair], summary: dict[str, Any]) -> None:
    """Print the pairs and the figures."""
    rows = []
    for name in (label(pair) for pair in pairs if label(pair) in record.parts):
        we, they = record.parts["ours"]["pairs"][name], Found.from_json(record.parts[name])
        to_ours = they.honest.seconds_to(we["size"] or 0.0)
        rows.append((name, we["size"], we["asr"], they.own.size, they.honest.size, they.seconds, to_ours))
    columns = ["pair", "ours", "ASR", "yardstick, own rule", "honest", "seconds", "seconds to ours, honest"]
    show("sizes of the smallest triggers", columns, rows)
    figures = {key: value for key, value in summary.items() if not key.startswith(("reached", "seconds_to", "ratio_to"))}
    show("time to a matrix", ["figure", "value"], list(figures.items()))
    for rule in ("own", "honest"):
        bound = "" if summary[f"reached_our_mean_{rule}"] else " (never reached: a lower bound)"
        seconds, ratio = summary[f"seconds_to_our_mean_{rule}"], summary[f"ratio_to_our_mean_{rule}"]
        print(f"yardstick to our mean, {rule} rule: {seconds:,.0f} s, {ratio:,.1f} times our time{bound}")


def main() -> None:
    """Measure by both loops what is not in the result file yet, and write sizes and times."""
    words = parser(__doc__, "time-to-matrix")
    add_subject(words)
    words.add_argument("--pairs", default="random:10", help="as in `orthogon measure` (default: %(default)s)")
    words.add_argument("--timed", type=int, help="pairs that the yardstick is timed on, drawn by seed (default: all)")
    words.add_argument("--samples", type=int, default=100, help="images of the victim class (default: %(default)s)")
    words.add_argument("--protocol", choices=list(PROTOCOLS), default="fast", help="ours (default: %(default)s)")
    words.add_argument("--epochs", type=int, default=1000, help="of the yardstick per restart (default: %(default)s)")
    words.add_argument("--restarts", type=int, default=3, help="of the yardstick per pair (default: %(default)s)")
    words.add_argument("--no-compile", action="store_true", help="our copy without a compiler")
    words.add_argument("--cold", action="store_true", help="compile without the cache of earlier runs")
    args = words.parse_args()
    classifier, images = subject(args)
    images, record = balanced(images, args.samples, args.seed), Record(args)
    pairs = pairs_of(args.pairs, classifier, args.seed)
    if "ours" not in record.parts:
        with tempfile.TemporaryDirectory() as empty:
            if args.cold:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            record.add("ours", ours(classifier, images, pairs, args))
        print(f"ours: {record.parts['ours']['seconds']:.1f} s", flush=True)
    settings = YardstickSettings(args.epochs, args.restarts)
    timed = drawn(pairs, args.timed, args.seed)
    for number, pair in enumerate(timed, 1):
        if label(pair) not in record.parts:
            victims = images.of_class(pair.victim or 0).floats(device_of(classifier))
            found = search_pair(classifier, victims, pair.target, settings, args.seed)
            record.add(label(pair), found.to_json())
            print(f"yardstick, {number} of {len(timed)}: {label(pair)} in {found.seconds:.1f} s", flush=True)
    classes = len(classifier.classes)
    summary = summarised(record, pairs, classes * (classes - 1))
    tell(record, pairs, summary)
    record.finish(**summary)


if __name__ == "__main__":
    main()
