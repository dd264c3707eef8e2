"""Neural Cleanse on a planted model: our protocol `neural-cleanse` against a plain loop by the rules of its release.

python benchmarks/neural_cleanse.py --model planted_cifar10_badnets.safetensors --arch vgg_small --data cifar10 --split test

For every target class both search one trigger for the images of all other classes, `--per-class` of each, so that both have
exactly the same ones. Ours searches all targets at once (as `orthogon measure --pairs universal --protocol neural-cleanse`); the
loop takes one after the other, and the file under benchmarks/results/ is written after every target.

Seconds are told twice: of the clock, and of the processors, which other programs on the machine stretch less. The loop's
triggers are read off by both rules of acceptance (see yardstick.py), here at 99 %. The anomaly indices are those of Neural
Cleanse. The target on the model's card is printed beside them, and nothing else is done with it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from common import Record, add_subject, agreement, balanced, clock, device_of, parser, show, subject
from orthogon.anomaly import FLAGGED, anomaly_indices
from orthogon.classifier import Classifier
from orthogon.distance import measure
from orthogon.images import LabelledImages
from orthogon.pairs import Pair
from yardstick import Curve, Epoch, Found, Search, YardstickSettings

PROTOCOL = "neural-cleanse"
WORTH_JUDGING = 0.95
"""Running success rate from which a trigger may turn 99 % of the samples, so that it is tested on all of them."""


class CleanseSearch(Search):
    """The yardstick's loop by the rules of Neural Cleanse's release (visualizer.py): no noise on what has improved, the size
    weighs nothing until `patience` epochs in a row have succeeded, and an end before the last epoch.
    """

    def __init__(self, classifier: Classifier, images: Tensor, target: int, settings: YardstickSettings, seed: int) -> None:
        super().__init__(classifier, images, target, settings, seed)
        self.weight, self.stale = 0.0, 0
        self.raised = self.lowered = False

    @property
    def ended(self) -> bool:
        """Five times the patience has brought nothing smaller, after the weight went both ways."""
        return self.raised and self.lowered and self.stale >= 5 * self.settings.patience

    def _steer(self, epoch: Epoch) -> None:
        settings, enough = self.settings, epoch.running >= self.settings.asr
        if enough and epoch.size < self.best:
            self.best, self.stale = epoch.size, 0
        elif math.isfinite(self.best):
            self.stale += 1
        self.successes = self.successes + 1 if enough else 0
        self.failures = 0 if enough else self.failures + 1
        if self.successes >= settings.patience:
            self.raised |= self.weight > 0
            self.weight, self.successes = self.weight * settings.raise_by or settings.weight, 0
        elif self.failures >= settings.patience:
            self.lowered |= self.weight > 0
            self.weight, self.failures = self.weight / settings.lower_by, 0


def loop(classifier: Classifier, images: Tensor, target: int, settings: YardstickSettings, seed: int) -> dict[str, Any]:
    """Run the plain loop for one target; images are those of all other classes, in [0, 1]."""
    device, own, honest, seconds, busy, number = device_of(classifier), Curve(), Curve(), 0.0, 0.0, 0
    search = CleanseSearch(classifier, images, target, settings, seed * 1009 + target)
    while number < settings.epochs and not search.ended:
        began, idle = clock(device), time.process_time()
        epoch = search.epoch()
        seconds, busy, number = seconds + clock(device) - began, busy + time.process_time() - idle, number + 1
        accepted = epoch.running >= settings.asr and epoch.size < own.size
        hopeful = epoch.running >= WORTH_JUDGING and epoch.size < honest.size
        asr = search.success(epoch) if accepted or hopeful else 0.0
        if accepted:
            own.add(seconds, number, epoch, asr)
        if epoch.size < honest.size and asr >= settings.asr:
            honest.add(seconds, number, epoch, asr)
    classifier.zero_grad(set_to_none=True)
    return {**Found(own, honest, seconds, number * len(images)).to_json(), "processor_seconds": busy}


def ours(classifier: Classifier, images: LabelledImages, samples: int, seed: int) -> dict[str, Any]:
    """All targets by our protocol; seconds from nothing to the last, of them the preparation, to the end of the first step."""
    first: list[float] = []
    began, idle = time.perf_counter(), time.process_time()
    measured = measure(
        *(classifier, images),
        pairs=[Pair(None, target) for target in range(len(classifier.classes))],
        protocol=PROTOCOL,
        seed=seed,
        samples=samples,
        on_progress=lambda _: first.append(time.perf_counter() - began) if not first else None,
    )
    seconds = {"seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - idle}
    found = [{"size": i.size, "asr": i.asr, "outcome": str(i.outcome), "steps": i.steps} for i in measured.inversions]
    return {**seconds, "preparation": first[0], "targets": found}


def summarised(record: Record, targets: Sequence[int], samples: int, planted: int | None) -> dict[str, Any]:
    """Sizes, anomaly indices and flags of both, and how the sizes agree."""
    we, theirs = record.parts["ours"], [Found.from_json(record.parts[str(target)]) for target in targets]
    sizes = {
        "ours": [math.nan if row["size"] is None else row["size"] for row in we["targets"]],
        "loop_own": [found.own.size for found in theirs],
        "loop_honest": [found.honest.size for found in theirs],
    }
    summary: dict[str, Any] = {"targets": len(targets), "samples": samples, "planted_target": planted}
    for name, values in sizes.items():
        indices = anomaly_indices(values)
        flagged = [target for target, index in zip(targets, indices, strict=True) if index > FLAGGED]
        summary |= {f"{name}_sizes": values, f"{name}_indices": indices, f"{name}_flagged": flagged}
    tensors = {name: torch.tensor(values) for name, values in sizes.items()}
    for name in ("loop_own", "loop_honest"):
        compared = agreement(tensors["ours"], tensors[name])
        summary |= {f"{key}_to_{name}": compared[key] for key in ("mean_ratio", "spearman", "not_larger", "pairs")}
    for name in ("seconds", "processor_seconds"):
        spent = sum(record.parts[str(target)][name] for target in targets)
        summary |= {f"our_{name}": we[name], f"loop_{name}": spent, f"ratio_of_{name}": spent / we[name]}
    return summary


def tell(record: Record, classes: Sequence[str], summary: dict[str, Any]) -> None:
    """Print a row for every target, and the figures."""
    rows = []
    for target, name in enumerate(classes):
        we, they = record.parts["ours"]["targets"][target], Found.from_json(record.parts[str(target)])
        mark = " (planted)" if target == summary["planted_target"] else ""
        indices = [summary[f"{method}_indices"][target] for method in ("ours", "loop_own", "loop_honest")]
        asr = they.own.asr[-1] if they.own.asr else None
        epochs = they.image_steps // summary["samples"]
        both = [they.own.size, asr, indices[1], they.honest.size, indices[2], epochs]
        rows.append((f"{target} {name}{mark}", we["size"], we["asr"], indices[0], we["steps"], *both))
    columns = ["target", "ours", "ASR", "index", "steps", "loop, own rule", "ASR", "index", "honest", "index", "epochs"]
    show("sizes of the smallest universal triggers, and their anomaly indices", columns, rows)
    figures = [(key, value) for key, value in summary.items() if not key.endswith(("sizes", "indices"))]
    show("Neural Cleanse", ["figure", "value"], figures)


def words() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__, "neural-cleanse")
    add_subject(made)
    made.add_argument("--per-class", type=int, default=12, help="images of each class to search on (default: %(default)s)")
    made.add_argument("--epochs", type=int, default=1000, help="of the loop per target, at the most (default: %(default)s)")
    made.add_argument("--patience", type=int, default=5, help="of the loop: epochs that move its weight (default: %(default)s)")
    made.add_argument("--factor", type=float, default=1.5, help="by which they raise it; it falls by factor^1.5 (default: 1.5)")
    return made


def main() -> None:
    """Run both searches on the same images, and write their sizes and times."""
    args = words().parse_args()
    classifier, images = subject(args)
    images, record = balanced(images, args.per_class, args.seed), Record(args)
    targets, channels = range(len(classifier.classes)), images.image_shape[0]
    samples = args.per_class * (len(targets) - 1)
    settings = YardstickSettings(
        *(args.epochs, 1),
        asr=0.99,
        weight=1e-3 / channels,  # the release counts the mask once, the yardstick on every channel
        patience=args.patience,
        raise_by=args.factor,
        lower_by=args.factor**1.5,
    )
    if "ours" not in record.parts:
        record.add("ours", ours(classifier, images, samples, args.seed))
        print(f"ours: {record.parts['ours']['seconds']:.1f} s", flush=True)
    for target in targets:
        if str(target) not in record.parts:
            others = images.select((images.labels != target).nonzero()[:, 0]).floats(device_of(classifier))
            record.add(str(target), loop(classifier, others, target, settings, args.seed))
            print(f"loop, target {target}: {record.parts[str(target)]['seconds']:.1f} s", flush=True)
    planted = (classifier.card.get("planted") or {}).get("target")
    summary = summarised(record, targets, samples, planted)
    tell(record, classifier.classes, summary)
    record.finish(**summary)


if __name__ == "__main__":
    main()
