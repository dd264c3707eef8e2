"""What the benchmarks share: the words of their command lines, a clock, and result files that can be taken up again."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from orthogon import runs
from orthogon.classifier import Classifier
from orthogon.cli.subject import generator, open_subject, pick_device
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.images import LabelledImages
from orthogon.pairs import Pair, choose_pairs

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring; the result goes to results/<name>.json."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--name", default=name, help="of the file under benchmarks/results/ (default: %(default)s)")
    made.add_argument("--fresh", action="store_true", help="begin anew where the file is there already")
    return made


def add_subject(parser: argparse.ArgumentParser) -> None:
    """The words for the model, the images, the device and the seed, as `orthogon measure` has them."""
    group = parser.add_argument_group("the subject, as in `orthogon measure`")
    group.add_argument("--model", required=True, metavar="F")
    group.add_argument("--arch", metavar="NAME")
    group.add_argument("--normalization", metavar="MEAN/STD")
    group.add_argument("--data", required=True, metavar="D")
    group.add_argument("--split", metavar="NAME")
    group.add_argument("--subset", metavar="PART")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    group.add_argument("--seed", type=int, default=0, help="of pairs, samples and searches (default: %(default)s)")


def subject(args: argparse.Namespace) -> tuple[Classifier, LabelledImages]:
    """The classifier, on its device and in evaluation mode, and the images."""
    words = ModelWords(args.model, args.arch, args.normalization), ImageWords(args.data, args.split, args.subset)
    classifier, images = open_subject(*words, args.seed)
    return classifier.eval().to(pick_device(args.device)), images


def balanced(images: LabelledImages, count: int, seed: int) -> LabelledImages:
    """`count` images of each class, drawn by seed: what both contestants search on.

    Raises:
        ValueError: a class has fewer.
    """
    fewest = min(images.counts())
    if fewest < count:
        raise ValueError(f"every class needs {count} images, one has {fewest}: take fewer with --samples")
    return images.subset(f"per-class:{count}", generator(seed))


def pairs_of(spec: str, classifier: Classifier, seed: int) -> list[Pair]:
    """The pairs with a victim that `spec` names; "random:20" draws what `orthogon measure` draws with this seed."""
    return [p for p in choose_pairs(spec, len(classifier.classes), generator(seed)) if p.victim is not None]


def label(pair: Pair) -> str:
    """As the command line writes a pair: victim-target."""
    return f"{pair.victim}-{pair.target}"


def device_of(classifier: Classifier) -> torch.device:
    """Where the classifier is."""
    return next(classifier.parameters()).device


def clock(device: torch.device) -> float:
    """Seconds, after all work queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Record:
    """A result file: what was asked, on which machine, and the finished parts; the same command takes it up again.

    Args:
        args: the command line; everything in it but `--name` and `--fresh` must be the same to go on.

    Raises:
        SystemExit: the file holds the results of another command.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.path = RESULTS / f"{args.name}.json"
        settings = {key: _shortened(value) for key, value in vars(args).items() if key not in ("name", "fresh")}
        self.parts: dict[str, Any] = {}
        if self.path.exists() and not args.fresh:
            found = json.loads(self.path.read_text())
            if changes := runs.differences(found.get("settings", {}), json.loads(json.dumps(settings))):
                sys.exit(f"{self.path} has other settings ({'; '.join(changes)}): give --fresh or another --name")
            self.parts = found["parts"]
        script = Path(sys.argv[0])
        self._facts = {
            "command": " ".join(["python", f"benchmarks/{script.name}", *map(_shortened, sys.argv[1:])]),
            "settings": settings,
            "versions": runs.versions(),
            "threads": torch.get_num_threads(),
        }

    def add(self, key: str, value: Any) -> None:
        """Keep a finished part, in one step."""
        self.parts[key] = plain(value)
        self._write({})

    def finish(self, **summary: Any) -> None:
        """Write the file for the last time, with its summary."""
        self._write({"summary": plain(summary)})
        print(f"written: benchmarks/results/{self.path.name}")

    def _write(self, more: dict[str, Any]) -> None:
        write_result(self.path, {**self._facts, **more, "parts": self.parts})


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Write a result file in one step, a list of numbers on one line."""
    text = json.dumps(record, indent=1, allow_nan=False)
    runs.write_text(path, re.sub(r"\[[^\[\]{}]*\]", lambda row: " ".join(row[0].split()), text) + "\n")


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers with four significant digits or more."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(_worded(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def read_distances(path: Path) -> dict[str, Any]:
    """The record of a distances.json, given itself or its run folder; NaN in the grids where there is none."""
    record = json.loads((path / "distances.json" if path.is_dir() else path).read_text())
    grids = {key: _grid(record[key]) for key in ("values", "asr") if key in record}
    return {**record, **grids}


def agreement(values: Tensor, reference: Tensor) -> dict[str, Any]:
    """How one matrix of distances (classes, classes) agrees with another, on the pairs that both have."""
    both = values.isfinite() & reference.isfinite()
    ours, theirs = values[both].double().numpy(), reference[both].double().numpy()
    if len(ours) == 0:
        raise ValueError("the two matrices have no pair in common")
    enough = len(ours) > 2
    return {
        "pairs": len(ours),
        "mean": ours.mean(),
        "reference_mean": theirs.mean(),
        "mean_ratio": ours.mean() / theirs.mean(),
        "spearman": spearmanr(ours, theirs).statistic if enough else math.nan,
        "pearson": pearsonr(ours, theirs).statistic if enough else math.nan,
        "not_larger": (ours <= theirs).mean(),
    }


def by_pair(values: Tensor, reference: Tensor) -> list[tuple[str, float, float, float]]:
    """(pair, value, reference, ratio) for the pairs that both matrices have, the largest ratio first."""
    both = (values.isfinite() & reference.isfinite()).nonzero().tolist()
    rows = [(f"{a}-{b}", float(values[a, b]), float(reference[a, b])) for a, b in both]
    return sorted(((*row, row[1] / row[2]) for row in rows), key=lambda row: -row[3])


def _grid(rows: Sequence[Sequence[float | None]]) -> Tensor:
    return torch.tensor([[math.nan if value is None else value for value in row] for row in rows])


def _shortened(value: Any) -> Any:
    """Paths without the folders of this machine."""
    if isinstance(value, (list, tuple)):
        return [_shortened(part) for part in value]
    if isinstance(value, (str, Path)) and "/" in str(value) and Path(value).is_absolute():
        return Path(value).name
    return str(value) if isinstance(value, Path) else value


def plain(value: Any) -> Any:
    """Python numbers, rounded to six digits, None where they are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _worded(value: Any) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return "-" if not math.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
