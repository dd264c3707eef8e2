"""What partial probes miss: of networks with a backdoor between two classes only, is its pair among those that are screened?

Each network tells the built-in signs apart and is poisoned by a square that turns one class into another; which classes, where
the square is and its colour are drawn. Where it turns nine tenths of the victim's pictures, the network is scanned with all pairs
screened and with fewer, and two things are asked of fewer: is the planted pair screened; is the nearest of all pairs. A bound on
what is missed is the upper end of the one-sided 95 % interval of Clopper and Pearson (1934).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from functools import partial
from statistics import fmean
from typing import Any, get_args

import torch
from scipy.stats import beta

from common import Record, parser, show
from orthogon.attacks import BadNets, Materials, Threat, poison
from orthogon.attacks.patch import Corner
from orthogon.classifier import Classifier
from orthogon.data.signs import signs
from orthogon.evaluate import accuracy, attack_success
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings
from orthogon.scanning import SCANNERS, scan
from orthogon.training import fit
from scan_cost import network

_TAKEN_HOLD = 0.9
"""Share of the victim's pictures that the square turns, from which a backdoor is one."""

Key = tuple[int, int]
"""Victim and target."""


def poisoned_network(seed: int, classes: int, per_class: int, size: int, square: int) -> tuple[Classifier, Key, dict[str, float]]:
    """A network that takes one class for another where the square is, both drawn; and how well it does both of its tasks."""
    generator = torch.Generator().manual_seed(seed)
    victim, target = torch.randperm(classes, generator=generator)[:2].tolist()
    corner: Corner = get_args(Corner)[int(torch.randint(4, (), generator=generator))]
    colour = tuple(torch.rand(3, generator=generator).round().tolist())
    attack, threat = BadNets(square, colour, corner), Threat(target, victim, rate=0.5)
    materials = Materials(signs(classes, size, per_class, seed, "train"), threat, generator)
    made = attack.make(materials)
    torch.manual_seed(seed)
    images = materials.images
    classifier = Classifier(network(classes), images.classes, images.image_shape).eval()
    recipe = TrainingSettings(epochs=30, batch=64, shift=0.05, precision="float32")
    fit(classifier, poison(attack, made, materials).images, recipe, generator)
    judged = signs(classes, size, per_class, seed, "test")
    success = attack_success(classifier, judged, partial(attack.stamp, made), target, victim).success_rate
    return classifier, (victim, target), {"accuracy": accuracy(classifier, judged).accuracy, "success": success}


def scanned(classifier: Classifier, images: LabelledImages, pairs_per_class: int, seed: int) -> tuple[dict[Key, float], float]:
    """The size of every pair that is screened with so many pairs per class, and the processor's seconds."""
    scanner = SCANNERS["distance"](families=("patch",), pairs_per_class=pairs_per_class, again=1)  # type: ignore[call-arg]
    began = sum(os.times()[:4])
    (evidence,) = scan(classifier, images, scanner, torch.Generator().manual_seed(seed)).evidence
    quick = evidence.facts["patch"]["quick"]
    return {(victim, target): size for victim, target, size in quick if victim is not None}, sum(os.times()[:4]) - began


def missed(screened: Collection[Key], all_sizes: dict[Key, float], planted: Key) -> dict[str, Any]:
    """What a scan with fewer pairs has missed of one with all of them."""
    nearest = min(all_sizes, key=all_sizes.__getitem__)
    return {"screened": len(screened), "planted_missed": planted not in screened, "nearest_missed": nearest not in screened}


def upper_bound(misses: int, tries: int) -> float:
    """The share that the true one exceeds in one case of twenty (Clopper and Pearson 1934)."""
    return 1.0 if misses == tries else float(beta.ppf(0.95, misses + 1, tries - misses))


def one_model(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a network, and scan it by all its pairs and by fewer where its backdoor took hold."""
    classifier, planted, judged = poisoned_network(seed, args.classes, args.per_class, args.size, args.square)
    if judged["success"] < _TAKEN_HOLD:
        return {"planted": planted, **judged}
    images = signs(args.classes, args.size, args.images, seed + 1, "test")
    everything, seconds = scanned(classifier, images, args.classes - 1, seed)
    rank = sorted(everything.values()).index(everything[planted]) + 1
    fewer = {}
    for count in args.pairs_per_class:
        sizes, own = scanned(classifier, images, count, seed)
        fewer[str(count)] = missed(sizes, everything, planted) | {"cpu_seconds": own}
    told = {"planted_rank": rank, "smallest": min(everything.values()), "cpu_seconds": seconds, "fewer": fewer}
    return {"planted": planted, **judged, **told}


def summary(models: list[dict[str, Any]], count: int) -> dict[str, float]:
    """Over all models whose backdoor took hold."""
    rows = [model["fewer"][str(count)] for model in models]
    planted, nearest = (sum(row[f"{which}_missed"] for row in rows) for which in ("planted", "nearest"))
    return {
        "pairs_per_class": count,
        "pairs_screened": fmean(row["screened"] for row in rows),
        "planted_missed": planted,
        "planted_missed_at_most": upper_bound(planted, len(rows)),
        "nearest_missed": nearest,
        "nearest_missed_at_most": upper_bound(nearest, len(rows)),
        "cpu_share": sum(row["cpu_seconds"] for row in rows) / sum(model["cpu_seconds"] for model in models),
    }


def main() -> None:
    """Measure the models that are not in the result file yet."""
    words = parser(__doc__, "screening")
    words.add_argument("--models", type=int, default=15, help="networks to poison (default: %(default)s)")
    words.add_argument("--classes", type=int, default=20, help="(default: %(default)s)")
    words.add_argument("--per-class", type=int, default=150, help="pictures to train on (default: %(default)s)")
    words.add_argument("--images", type=int, default=10, help="pictures of each class to scan with (default: %(default)s)")
    words.add_argument("--size", type=int, default=20, help="of the pictures (default: %(default)s)")
    words.add_argument("--square", type=int, default=3, help="side of the square in pixels (default: %(default)s)")
    words.add_argument(
        "--pairs-per-class",
        type=int,
        nargs="+",
        default=[1, 3, 9],
        help="that are screened instead of all (default: %(default)s)",
    )
    words.add_argument("--seed", type=int, default=0, help="of the first model (default: %(default)s)")
    args = words.parse_args()
    if not 0 < min(args.pairs_per_class) <= max(args.pairs_per_class) < args.classes - 1:
        words.error(f"--pairs-per-class takes numbers from 1 to {args.classes - 2}")
    torch.set_num_threads(1)
    record = Record(args)
    for seed in range(args.seed, args.seed + args.models):
        if (key := f"model {seed}") not in record.parts:
            record.add(key, one_model(seed, args))
    kept = [model for model in record.parts.values() if "fewer" in model]
    if not kept:
        words.error("no backdoor took hold")
    rows = [summary(kept, count) for count in args.pairs_per_class]
    columns = ("pairs per class", "screened", "planted missed", "at most", "nearest missed", "at most", "time")
    show(f"of {len(kept)} models, against all pairs", columns, [list(row.values()) for row in rows])
    nearest = sum(model["planted_rank"] == 1 for model in kept)
    record.finish(models=len(kept), planted_is_nearest_of_all=nearest, summaries=rows)


if __name__ == "__main__":
    main()
