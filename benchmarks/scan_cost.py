"""What a scan by class distances costs at 10, 43 and 200 classes: its exponent in the number of classes, by least squares.

Every task has classes of small smooth pictures with noise on them, drawn, and a small network is trained on it for some seconds.
Time is the processor's, on one thread, so that other work on the machine counts little; the searches are counted beside it.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common import Record, parser, show
from orthogon.classifier import Classifier
from orthogon.evaluate import accuracy
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings
from orthogon.scanning import SCANNERS, scan
from orthogon.training import fit

_COARSE, _NOISE = 4, 0.1
"""Pixels across of what a class's picture is enlarged from; deviation of the noise, of a range of 1."""


def task(classes: int, per_class: int, size: int, generator: torch.Generator) -> LabelledImages:
    """Noisy pictures of drawn classes, class by class in turn."""
    coarse = torch.rand(classes, 3, _COARSE, _COARSE, generator=generator)
    pictures = F.interpolate(coarse, size=(size, size), mode="bilinear").repeat(per_class, 1, 1, 1)
    noisy = pictures + _NOISE * torch.randn(pictures.shape, generator=generator)
    pixels = (255 * noisy.clamp(0, 1)).round().to(torch.uint8)
    return LabelledImages(pixels, torch.arange(classes).repeat(per_class), tuple(map(str, range(classes))), "drawn classes")


def network(classes: int) -> nn.Module:
    """Two strided convolutions and a linear layer, whose cost hardly depends on the classes."""
    parts = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, classes))


def cost(classes: int, per_class: int, size: int, family: str, seed: int) -> dict[str, Any]:
    """Processor's seconds of a scan, the searches that it made, and how good the model is that was scanned."""
    generator = torch.Generator().manual_seed(seed)
    images = task(classes, per_class, size, generator)
    torch.manual_seed(seed)
    classifier = Classifier(network(classes), images.classes, (3, size, size)).eval()
    fit(classifier, images, TrainingSettings(epochs=20, batch=64, shift=0.0, precision="float32"), generator)
    scanner = SCANNERS["distance"](families=(family,), samples=per_class)  # type: ignore[call-arg]
    began = sum(os.times()[:4])
    verdict = scan(classifier, images, scanner, generator)
    seconds = sum(os.times()[:4]) - began  # other processes count once they have ended: compilers in a pool do not
    (evidence,) = verdict.evidence
    facts = evidence.facts[family]
    pairs = sum(victim is not None for victim, *_ in facts["quick"])
    shown = {"classes": classes, "pairs": classes * (classes - 1), "pairs_screened": pairs, "again": len(facts["thorough"])}
    return {**shown, "cpu_seconds": seconds, "accuracy": accuracy(classifier, images).accuracy, "verdict": str(verdict.decision)}


def exponent(classes: list[int], seconds: list[float]) -> float:
    """The slope of the straight line through the logarithms, by least squares: cost grows with this power of the classes."""
    return float(np.polyfit([math.log(n) for n in classes], [math.log(s) for s in seconds], 1)[0])


def main() -> None:
    """Measure what is asked for and is not in the result file yet."""
    words = parser(__doc__, "scan-cost")
    words.add_argument("--classes", type=int, nargs="+", default=[10, 43, 200], help="(default: %(default)s)")
    words.add_argument("--per-class", type=int, default=10, help="images to search on (default: %(default)s)")
    words.add_argument("--size", type=int, default=16, help="of the images (default: %(default)s)")
    words.add_argument("--family", default="patch", help="of triggers (default: %(default)s)")
    words.add_argument("--seed", type=int, default=0, help="of pictures, weights and searches (default: %(default)s)")
    args = words.parse_args()
    if len(args.classes) < 2:
        words.error("an exponent needs two numbers of classes")
    torch.set_num_threads(1)
    record = Record(args)
    for classes in args.classes:
        if (key := f"{classes} classes") not in record.parts:
            record.add(key, cost(classes, args.per_class, args.size, args.family, args.seed))
    rows = [record.parts[f"{classes} classes"] for classes in args.classes]
    show("a scan by class distances", list(rows[0]), [list(row.values()) for row in rows])
    counts = [row["classes"] for row in rows]
    of_cost = exponent(counts, [row["cpu_seconds"] for row in rows])
    of_pairs = exponent(counts, [row["pairs_screened"] for row in rows])
    of_last = exponent(counts[-2:], [row["cpu_seconds"] for row in rows[-2:]])
    columns = ["processor's time", f"from {counts[-2]} to {counts[-1]} classes", "pairs screened", "all pairs"]
    show("grows with the classes to the power", columns, [(of_cost, of_last, of_pairs, 2.0)])
    record.finish(exponent=of_cost, exponent_of_the_last_two=of_last, exponent_of_pairs_screened=of_pairs)


if __name__ == "__main__":
    main()
