"""Time to distance: `orthogon harden moth` against the authors' loop (yardstick_hardening.py), on the same model and images.

python benchmarks/time_to_distance.py --model moth_resnet20_nat.safetensors --arch moth_resnet20 --data cifar10 \\
    --held-out first:2000 --flip --minutes 20

The yardstick runs once for `--minutes`; its weights are saved at the `--checks`, minutes of its own clock, which stands still
while anything is saved or judged. Ours plans for the time that it is given, so it is run anew for each of the `--budgets`. Then
each saved model is judged alike: accuracy on the held-out images, which neither has trained on (ours looks at them to stop), and
distances of the same pairs on them, drawn by seed, against those of the original model (MOTH, Eq. 8).

Only models within the accuracy bound count. A row of the table stands for each time that the yardstick has enlarged the
distances more than ever before; beside it the first of our budgets that enlarged them at least as much, and the first that did
so at no less accuracy. Our time is thus rounded up to a budget; a ratio is the yardstick's time over ours.

Weights and checkpoints lie in `--work`, figures in benchmarks/results/; after a kill the same command goes on, losing half a
minute of the yardstick, or what ours did since its last look at the held-out images.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file

from common import Record, add_subject, label, pairs_of, parser, show, subject
from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.cli.subject import generator
from orthogon.distance import Progress, measure
from orthogon.evaluate import accuracy
from orthogon.hardening import METHODS, HardeningProgress, HardeningSettings, harden
from orthogon.pairs import Pair
from orthogon.protocols import PROTOCOLS
from yardstick_hardening import HardeningLoop, LoopSettings

SAVE_EVERY = 30.0
"""Seconds of the yardstick's clock between two checkpoints."""


@dataclass(frozen=True)
class Point:
    """A model that was saved and judged."""

    seconds: float
    accuracy: float
    increase: float
    """Average relative increase of the distances; NaN where no pair has one before and after."""


def said(every: float = 10.0) -> Callable[[str], None]:
    """A way to print how far something is, now and then."""
    last = [0.0]

    def say(text: str) -> None:
        if time.monotonic() - last[0] >= every:
            last[0] = time.monotonic()
            print(text, flush=True)

    return say


def run_yardstick(
    loop: HardeningLoop,
    checks: Sequence[float],
    checkpoint: Path,
    identity: dict[str, Any],
    on_check: Callable[[float], None],
) -> None:
    """Run the yardstick to the last of the checks (minutes); `on_check` is told each that is reached.

    Raises:
        ValueError: the checkpoint is of another run.
    """
    if checkpoint.exists():
        restore(loop, checkpoint, identity)
    saved, say = loop.seconds, said()

    def save() -> None:
        tensors, facts = loop.state()
        runs.write_tensors(checkpoint, tensors, {"yardstick": json.dumps({**identity, "state": facts})})

    for minutes in checks:
        while loop.seconds < 60 * minutes:
            loop.update()
            if loop.seconds - saved >= SAVE_EVERY:
                save()
                saved = loop.seconds
            phase = "warm-up" if loop.warming else f"pair {loop.pair[0]}-{loop.pair[1]}"
            say(f"yardstick: {loop.seconds / 60:.1f} of {checks[-1]:g} minutes, update {loop.updates}, {phase}")
        on_check(minutes)
    save()


def restore(loop: HardeningLoop, checkpoint: Path, identity: dict[str, Any]) -> None:
    """Take up a yardstick's checkpoint.

    Raises:
        ValueError: it is of another run.
    """
    with safe_open(checkpoint, framework="pt") as file:
        record = json.loads((file.metadata() or {})["yardstick"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    facts = record.pop("state")
    if changes := runs.differences(record, json.loads(json.dumps(identity))):
        raise ValueError(f"{checkpoint} is of another run ({'; '.join(changes)}): give --fresh or another --name")
    loop.restore(tensors, facts)


class Contest:
    """Both contestants on one subject, part by part, each kept in the record as it is done."""

    def __init__(self, args: argparse.Namespace, record: Record) -> None:
        self.args, self.record = args, record
        self.classifier, images = subject(args)
        self.held_out, self.training = images.divide(args.held_out, generator(args.seed))
        self.pairs = pairs_of(args.pairs, self.classifier, args.seed)
        self.work: Path = args.work or Path("runs") / f"benchmark-{args.name}"
        self.work.mkdir(parents=True, exist_ok=True)
        if args.fresh:
            for checkpoint in self.work.glob("*.checkpoint.safetensors"):
                checkpoint.unlink()

    def yardstick(self, checks: Sequence[float], settings: LoopSettings) -> None:
        """Run the yardstick, with a part of the record for every check."""
        loop = HardeningLoop(self.classifier, self.training, settings, self.args.seed)
        images, seed = self.training.digest(), self.args.seed
        identity = {"settings": asdict(settings), "model": self.classifier.digest(), "images": images, "seed": seed}

        def check(minutes: float) -> None:
            name = f"yardstick {minutes:g}"
            if name not in self.record.parts:
                counted = ("seconds", "processor_seconds", "updates", "epochs", "stamped", "searches", "failures", "warming")
                self.keep(name, loop.classifier, {key: getattr(loop, key) for key in counted})

        if f"yardstick {checks[-1]:g}" not in self.record.parts:
            run_yardstick(loop, checks, self.work / "yardstick.checkpoint.safetensors", identity, check)

    def ours(self, minutes: float, settings: HardeningSettings) -> None:
        """Run ours with one budget, unless that is done."""
        name, say = f"ours {minutes:g}", said()
        if name in self.record.parts:
            return

        def tell(progress: HardeningProgress) -> None:
            seen = f", accuracy {progress.check.accuracy:.2%}" if progress.check else ""
            say(f"ours, {minutes:g} minutes: {progress.done:.0%}, update {progress.step}, {progress.phase}{seen}")

        checkpoint = self.work / f"{name.replace(' ', '-')}.checkpoint.safetensors"
        resumed, began, idle = checkpoint.exists(), time.perf_counter(), time.process_time()
        made = harden(
            *(self.classifier, self.training, self.held_out, settings),
            seed=self.args.seed,
            minutes=minutes,
            checkpoint=checkpoint,
            on_progress=tell,
        )
        spent, busy = time.perf_counter() - began, time.process_time() - idle
        facts = {
            "seconds": max(spent, made.history.total_seconds),  # after a kill, the history alone knows what was before
            "processor_seconds": None if resumed else busy,
            "updates": made.step,
            "best_step": made.best_step,
            "stopped": made.stopped,
            "parts": made.history.seconds,
        }
        self.keep(name, made.classifier, facts)

    def keep(self, name: str, classifier: Classifier, facts: dict[str, Any]) -> None:
        """Save a model, and note its accuracy and what is told of it."""
        runs.write_tensors(self.weights(name), classifier.network.state_dict())
        seen = accuracy(classifier, self.held_out).accuracy
        self.record.add(name, {**facts, "accuracy": seen})
        print(f"{name} minutes: {facts['seconds']:.0f} s, {facts['updates']} updates, accuracy {seen:.2%}", flush=True)

    def weights(self, name: str) -> Path:
        """Where a contestant's model lies."""
        return self.work / f"{name.replace(' ', '-')}.safetensors"

    def judge(self, name: str) -> None:
        """Measure the distances of a model that was kept, or of the original, unless that is done."""
        key, say = f"distances {name}", said()
        if key in self.record.parts:
            return
        judged = copy.deepcopy(self.classifier)
        if name != "original":
            judged.network.load_state_dict(load_file(self.weights(name)))

        def tell(progress: Progress) -> None:
            say(f"distances of {name}: {progress.done:.0%}")

        told = {"protocol": self.args.protocol, "seed": self.args.seed, "on_progress": tell}
        found = measure(judged.eval(), self.held_out, pairs=self.pairs, **told).inversions
        self.record.add(key, {label(i.pair): {"size": i.size, "asr": i.asr, "outcome": str(i.outcome)} for i in found})


def points(parts: dict[str, Any], contestant: str, pairs: Sequence[Pair]) -> list[Point]:
    """The models of a contestant, in the order of their times."""
    before, made = parts["distances original"], []
    for name, facts in parts.items():
        if name.startswith(f"{contestant} ") and f"distances {name}" in parts:
            grown = increase(before, parts[f"distances {name}"], [label(pair) for pair in pairs])
            made.append(Point(facts["seconds"], facts["accuracy"], grown))
    return sorted(made, key=lambda point: point.seconds)


def increase(before: dict[str, Any], after: dict[str, Any], names: Sequence[str]) -> float:
    """Average relative increase of the size over the pairs that both have (MOTH, Eq. 8); 1.0 is +100 %, NaN: there is none."""
    both = [(before[name]["size"], after[name]["size"]) for name in names]
    grown = [(new - old) / old for old, new in both if old is not None and new is not None and old > 0]
    return sum(grown) / len(grown) if grown else math.nan


def compare(theirs: Sequence[Point], ours: Sequence[Point], floor: float) -> list[dict[str, Any]]:
    """For every new height of the yardstick: our first time at it, and at it at no less accuracy.

    Args:
        theirs: the yardstick's models, in the order of their times.
        ours: our models, likewise.
        floor: least accuracy of a model that counts.
    """
    rows, highest = [], 0.0
    counted = [point for point in ours if point.accuracy >= floor]
    for point in theirs:
        if point.accuracy < floor or not point.increase > highest:
            continue
        highest = point.increase
        reached = [o.seconds for o in counted if o.increase >= point.increase]
        alike = [o.seconds for o in counted if o.increase >= point.increase and o.accuracy >= point.accuracy]
        first, equal = min(reached, default=math.nan), min(alike, default=math.nan)
        rows.append(
            {
                **asdict(point),
                "our_seconds": first,
                "ratio": point.seconds / first,
                "our_seconds_no_less_accurate": equal,
                "ratio_no_less_accurate": point.seconds / equal,
            }
        )
    return rows


def summarised(parts: dict[str, Any], pairs: Sequence[Pair], bound: float) -> dict[str, Any]:
    """Both curves, the rows of the comparison, and the ratio at the yardstick's greatest increase."""
    before = parts["original"]["accuracy"]
    floor = before - bound - 1e-9
    theirs, ours = (points(parts, name, pairs) for name in ("yardstick", "ours"))
    rows = compare(theirs, ours, floor)
    last = rows[-1] if rows else {}
    curves = {
        name: [{**asdict(point), "within": point.accuracy >= floor} for point in made]
        for name, made in (("yardstick", theirs), ("ours", ours))
    }
    best = max((point.increase for point in ours if point.accuracy >= floor and point.increase == point.increase), default=None)
    return {
        **{"pairs": len(pairs), "accuracy_before": before, "accuracy_bound": bound},
        "yardstick_best_increase": last.get("increase"),
        "our_best_increase": best,
        "ratio": last.get("ratio"),
        "ratio_no_less_accurate": last.get("ratio_no_less_accurate"),
        **{"curves": curves, "reached": rows},
    }


def tell(summary: dict[str, Any]) -> None:
    """Print both curves and the comparison."""
    before = summary["accuracy_before"]
    rows = [
        (name, point["seconds"] / 60, point["accuracy"], 100 * (before - point["accuracy"]), point["within"], point["increase"])
        for name, made in summary["curves"].items()
        for point in made
    ]
    columns = ["loop", "minutes", "held-out accuracy", "points lost", "within the bound", "average increase"]
    show(f"distances of {summary['pairs']} pairs over time; accuracy before: {before:.2%}", columns, rows)
    columns = ["yardstick's increase", "its accuracy", "seconds", "ours", "ratio", "ours, no less accurate", "ratio"]
    keys = ("increase", "accuracy", "seconds", "our_seconds", "ratio", "our_seconds_no_less_accurate", "ratio_no_less_accurate")
    show("time to the same increase, within the bound", columns, [[row[key] for key in keys] for row in summary["reached"]])


def words() -> argparse.ArgumentParser:
    """The command line."""
    made = parser(__doc__, "time-to-distance")
    add_subject(made)
    made.set_defaults(split="train")
    group = made.add_argument_group("what both are given")
    group.add_argument(
        "--held-out", default="fraction:0.1", metavar="PART", help="to judge on, never to train on (default: fraction:0.1)"
    )
    group.add_argument("--flip", action="store_true", help="mirror half of the training images, as the release does on CIFAR-10")
    group.add_argument(
        "--max-accuracy-loss", type=float, default=0.01, help="the accuracy bound, as a share (default: %(default)s)"
    )
    group.add_argument("--pairs", default="random:12", help="to measure, as in `orthogon measure` (default: %(default)s)")
    group.add_argument("--protocol", choices=list(PROTOCOLS), default="screen", help="to measure them by (default: %(default)s)")
    group.add_argument("--work", type=Path, metavar="FOLDER", help="of weights and checkpoints (default: runs/benchmark-NAME)")
    group = made.add_argument_group("the yardstick")
    group.add_argument("--minutes", type=float, default=20, help="of its clock (default: %(default)s)")
    group.add_argument(
        "--checks", type=float, nargs="+", metavar="M", help="minutes at which it is judged (default: ten, evenly)"
    )
    own = LoopSettings()
    group.add_argument("--warm-up-steps", type=int, default=own.warm_up_inversion, help="of the search for a universal trigger")
    group.add_argument("--warm-up-updates", type=int, default=own.warm_up_updates, help="of the weights per universal trigger")
    group.add_argument("--one-search", action="store_true", help="one search per chosen pair, not one per update")
    group.add_argument("--loss", choices=["swapped", "cross entropy"], default=own.loss, help="of its searches")
    group = made.add_argument_group("ours")
    group.add_argument(
        "--budgets", type=float, nargs="+", metavar="M", help="minutes (default: 5, 10, 20 and 40 %% of --minutes)"
    )
    group.add_argument("--steps", type=int, help="updates at the most (default: the method's own)")
    return made


def main() -> None:
    """Harden by both loops, measure at the checks, and write the increase over time."""
    made = words()
    args = made.parse_args()
    args.checks = sorted(args.checks or [args.minutes * tenth / 10 for tenth in range(1, 11)])
    args.budgets = sorted(args.budgets or [args.minutes * share for share in (0.05, 0.1, 0.2, 0.4)])
    if min(*args.checks, *args.budgets) <= 0 or args.checks[-1] > args.minutes:
        made.error(f"checks and budgets must be above 0, and checks no later than --minutes {args.minutes:g}")
    if min(args.warm_up_steps, args.warm_up_updates) < 1:
        made.error("the warm-up takes at least one step and one update for each class")
    theirs = LoopSettings(
        flip=args.flip,
        every_update=not args.one_search,
        warm_up_inversion=args.warm_up_steps,
        warm_up_updates=args.warm_up_updates,
        loss=args.loss,
    )
    settings = replace(METHODS["moth"], flip=args.flip, max_accuracy_loss=args.max_accuracy_loss)
    settings = replace(settings, steps=args.steps or settings.steps)
    record = Record(args)
    contest = Contest(args, record)
    if "original" not in record.parts:
        facts = {"accuracy": accuracy(contest.classifier, contest.held_out).accuracy, "images": len(contest.held_out)}
        record.add("original", {**facts, "yardstick_settings": asdict(theirs), "our_settings": asdict(settings)})
    contest.yardstick(args.checks, theirs)
    for minutes in args.budgets:
        contest.ours(minutes, settings)
    for name in ("original", *(f"yardstick {m:g}" for m in args.checks), *(f"ours {m:g}" for m in args.budgets)):
        contest.judge(name)
    summary = summarised(record.parts, contest.pairs, args.max_accuracy_loss)
    tell(summary)
    record.finish(**summary)


if __name__ == "__main__":
    main()
