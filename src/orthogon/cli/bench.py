"""`orthogon bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from orthogon.bench import GRIDS, REMOVAL_GRIDS, RemovalGrid
from orthogon.cli.presets import is_given, to_be_given
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, ModelWords, Seed
from orthogon.methods import HardeningSettings

Repeatable = tyro.conf.UseAppendAction


@dataclass(frozen=True, kw_only=True)
class Bench(Command):
    """A paper's table on your own models: each of its methods, published figures beside yours.

    Examples:
      orthogon bench list
      orthogon bench moth-table3 --model net.safetensors --data torchvision:cifar10 --flip --minutes 20 \\
          --pairs random:20 --subject cifar10-resnet20
      orthogon bench moth-table1 --model net.safetensors --data images/ --rows moth,universal --steps 500
      orthogon bench removal --models runs/poison-* --data torchvision:cifar10 --flip --clean fraction:0.05
      orthogon bench deck-table4 --models runs/wanet runs/blend --data torchvision:cifar10 --flip \\
          --beside wanet=wanet-cifar10-resnet18 --set fine-tuning.epochs=10
      orthogon bench scanners --models zoo/cifar10-* --data torchvision:cifar10 --rows distance,nc,mm-bd --out runs/scanners
      orthogon bench false-positives --models runs/zoo-trojai --scanner distance --method moth --minutes 2

    Grids of hardening methods on one model: moth-table1 (naturally trained models: NC, UAP, Universal, Pairwise, MOTH),
    moth-table2 (adversarially trained models, which go on being trained adversarially), moth-table3 (MOTH without one of
    its design choices each); deck-table1, deck-table2 and deck-table10, the same of DECK, measured by pervasive triggers,
    deck-table3, measured by filters, and deck-table8, of TrojAI's models; deck-cross-patch and deck-cross-pervasive, MOTH and
    DECK each by the other's measure.

    Grids of removers on poisoned models: removal (every method that there is), moth-figure12, deck-table4, deck-table5
    (the adaptive attack), deck-table9.
    The trigger that a model keeps tells the attack success rate before and after.

    scanners: every scanner on models whose truth is known, poisoned and clean ones.

    false-positives: a scanner on a set of TrojAI's layout, before and after the models that it flags are hardened.

    `orthogon bench list` tells the rows and subjects of every grid, `orthogon bench GRID --help` its words.

    A row or a cell that fails is listed with its reason, and the others go on; killed, the same command goes on, and what
    is finished is read.
    """

    grid: tyro.conf.Positional[
        Literal[
            "list",
            "moth-table1",
            "moth-table2",
            "moth-table3",
            "deck-table1",
            "deck-table2",
            "deck-table3",
            "deck-table8",
            "deck-table10",
            "deck-cross-patch",
            "deck-cross-pervasive",
            "removal",
            "moth-figure12",
            "deck-table4",
            "deck-table5",
            "deck-table9",
            "scanners",
            "false-positives",
        ]
    ]
    """The table; or list, which tells what there is."""
    images: ImageWords
    rows: Annotated[str | None, tyro.conf.arg(metavar="ROW,…", help_behavior_hint="(default: all)")] = None
    """Rows to run: moth,universal. Other rows can be added later in the same folder."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    force: bool = False
    """Go on even though a model's clean accuracy is near chance."""
    fresh: Fresh = False
    json: Json = False

    @classmethod
    def preset(cls, words: Sequence[str]) -> Bench:
        """`list` needs no model and no images; each kind of grid has words of its own."""
        if words[:1] == ["list"]:
            return HardeningBench(grid="list", model=ModelWords(""), images=ImageWords(""))
        if words[:1] == ["scanners"]:
            return to_be_given(ScannerBench, images=ImageWords(""))
        if words[:1] == ["false-positives"]:
            return to_be_given(FalsePositiveBench, images=ImageWords(""))
        if any(word in REMOVAL_GRIDS for word in words[:1]):
            return to_be_given(RemovalBench, images=to_be_given(ImageWords))
        given = tuple(f.name for f in fields(HardeningSettings) if is_given(f"--{f.name.replace('_', '-')}", words))
        return to_be_given(HardeningBench, images=to_be_given(ImageWords), model=to_be_given(ModelWords), given=given)


@dataclass(frozen=True, kw_only=True)
class HardeningBench(Bench):
    """Hardening methods on one model."""

    model: ModelWords
    subject: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: none)")] = None
    """The paper's model whose published figures stand beside yours, such as cifar10-resnet20; it is never guessed."""
    test_split: Annotated[str, tyro.conf.arg(metavar="NAME")] = "test"
    """Part of the data that tells the accuracy in the table; nothing is trained or chosen on it."""
    test_data: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: --data)")] = None
    """Where the test images come from."""
    pgd: Annotated[str | None, tyro.conf.arg(metavar="BOUND", help_behavior_hint="(default: no attack)")] = None
    """Tell the accuracy under attack too, within this L-infinity bound: cifar10, svhn, gtsrb, lisa, or a number: 8/255."""
    held_out: Annotated[str, tyro.conf.arg(metavar="PART")] = "fraction:0.1"
    """Part of the data that is not trained on: it tells the distances, and when a model has lost too much accuracy."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="M", help_behavior_hint="(default: no limit)")] = None
    """Most time to harden each row, beside --steps; measuring comes on top."""
    min_accuracy: Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: none)")] = None
    """Least held-out accuracy, 0 to 1, beside the bound of --max-accuracy-loss."""
    measure: Literal["fast", "paper", "screen", "none"] = "fast"
    """Protocol of the distances; none leaves them out."""
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS")] = "all"
    """Pairs to measure: all; 0-1,2-5; random:20."""
    samples: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the protocol's)")] = None
    """Held-out images of each victim class to measure on; a class with fewer gets the outcome "too few samples"."""
    settings: HardeningSettings = field(default_factory=HardeningSettings)
    """Numbers of every row alike; what makes a method (--arms, --schedule, …) is the rows' to choose, and refused. Those that are
    not given are each method's own: DECK has 1500 updates, the others 500."""
    given: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Names of the settings among the words."""

    def run(self, screen: Screen) -> Result:
        """Run the rows and write the tables, or list the grids."""
        if self.grid == "list":
            return _listed()
        from orthogon.cli.benching import bench_and_write

        return bench_and_write(self, screen)


@dataclass(frozen=True, kw_only=True)
class RemovalBench(Bench):
    """Removers on poisoned models."""

    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="F")]
    """Poisoned models: run folders of `orthogon poison`, folders of the zoo, or checkpoints whose card beside them has
    planted.stamp and planted.target. Others can be added later in the same --out."""
    arch: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the card's)")] = None
    """Architecture of the models whose card names none."""
    clean: Annotated[str, tyro.conf.arg(metavar="PART")] = "fraction:0.05"
    """The clean part of the training images that every method gets, drawn by the seed; never an image of the test."""
    changes: Annotated[
        tuple[str, ...],
        tyro.conf.arg(name="set", metavar="ROW.NAME=VALUE", help_behavior_hint="(repeatable; default: its source's)"),
        Repeatable,
    ] = ()
    """Settings of a method, such as fine-tuning.epochs=10; nad.layer=block3 names a layer for a method that works on some, as
    --layer of orthogon remove does."""
    beside: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="MODEL=SUBJECT", help_behavior_hint="(repeatable; default: none)"), Repeatable
    ] = ()
    """The paper's model whose published figures stand beside yours; it is never guessed. MODEL is the name of its folder;
    mean=SUBJECT changes what stands beside the mean over all models."""
    flip: bool = False
    """Mirror half of the images of a batch; right for objects (CIFAR-10), wrong for digits and signs."""
    shift: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.125
    """Longest random shift of an image in a batch, as a share of its side."""
    test_split: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: as orthogon poison)")] = None
    """Part of the data that tells accuracy and attack success rate; nothing is learned or chosen on it."""
    test_data: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: --data)")] = None
    """Where the test images come from."""
    held_out: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.1
    """Share of each class that is kept for the test, where the data have no part of their own for it."""

    def run(self, screen: Screen) -> Result:
        """Run the cells and write the tables."""
        from orthogon.cli.benching_removal import bench_removal_and_write

        return bench_removal_and_write(self, screen)


@dataclass(frozen=True, kw_only=True)
class ScannerBench(Bench):
    """Scanners on models whose truth is known."""

    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="F")]
    """Models with a card beside them: run folders, folders of the zoo, or checkpoints. A card with an attack, or with
    planted.target, is of a backdoored model, one without of a clean one. Without --data each is scanned by the example pictures
    beside it, as TrojAI has them. Others can be added later in the same --out, of other data, too: --data is for the models of
    one command."""
    arch: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: the card's)")] = None
    """Architecture of the models whose card names none."""
    changes: Annotated[
        tuple[str, ...],
        tyro.conf.arg(name="set", metavar="ROW.NAME=VALUE", help_behavior_hint="(repeatable; default: its source's)"),
        Repeatable,
    ] = ()
    """Settings of a scanner, such as distance.samples=20."""
    calibrate: bool = False
    """Write a calibration of each scanner, fitted on the bench's finished scans, into calibrations/ of the run folder."""

    def run(self, screen: Screen) -> Result:
        """Run the cells and write the tables."""
        from orthogon.cli.benching_scanners import bench_scanners_and_write

        return bench_scanners_and_write(self, screen)


@dataclass(frozen=True, kw_only=True)
class FalsePositiveBench(Bench):
    """A scanner before and after the models that it flags are hardened."""

    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOLDER")]
    """Sets of TrojAI's layout, such as `orthogon zoo build --like trojai` makes. Each model is scanned by its own example
    pictures, and hardened on --data; without that on the clean pictures that it was trained on, where they can be drawn again,
    else on its example pictures."""
    rows: Annotated[str | None, tyro.conf.Suppress] = None
    """Not of this bench."""
    scanner: Annotated[str, tyro.conf.arg(metavar="NAME")] = "distance"
    """As in `orthogon scan`, which lists them (`orthogon scan list`)."""
    changes: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE", help_behavior_hint="(repeatable)"), Repeatable
    ] = ()
    """Settings of the scanner, such as samples=20."""
    method: Literal[
        "moth", "moth-filter", "moth-colour", "moth-additive", "deck", "asymmetric", "universal", "pairwise", "nc", "adversarial"
    ] = "moth"
    """How the flagged models are hardened, as in `orthogon harden`."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="M", help_behavior_hint="(default: no limit)")] = None
    """Most time to harden each model, beside --steps. With it the result depends on the machine's speed."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the method's)")] = None
    """Updates of the weights of each hardening."""

    def run(self, screen: Screen) -> Result:
        """Scan, harden, scan again, and write the table."""
        from orthogon.cli.benching_false_positives import bench_false_positives_and_write

        return bench_false_positives_and_write(self, screen)


def _listed() -> Result:
    data, told = {}, []
    for grid in GRIDS.values():
        rows = {row.key: row.label + (f" ({row.note})" if row.note else "") for row in grid.rows}
        subjects = {subject.key: f"{subject.label} ({subject.source})" for subject in grid.subjects}
        data[grid.name] = {"title": grid.title, "paper": grid.paper, "rows": rows, "subjects": subjects}
    for grid in REMOVAL_GRIDS.values():
        data[grid.name] = _of_removers(grid)
    data["scanners"] = _of_scanners()
    data["false-positives"] = _of_false_positives()
    for name, about in data.items():
        lines = [f"{name}: {about['title']}", "  rows", *(f"    {key:<18}{label}" for key, label in about["rows"].items())]
        lines += ["  subjects", *(f"    {key:<30}{label}" for key, label in about["subjects"].items())]
        told.append("\n".join(lines) + "\n")
    return Result(data, told)


def _of_removers(grid: RemovalGrid) -> dict[str, Any]:
    from orthogon.cli.benching_removal import rows_told

    subjects = {subject.key: f"{subject.label} ({subject.source})" for subject in grid.subjects}
    return {"title": grid.title, "paper": grid.paper, "rows": rows_told(grid), "subjects": subjects}


def _of_scanners() -> dict[str, Any]:
    from orthogon.bench.scanners import TITLE, label_of
    from orthogon.scanning import SCANNERS

    rows = {name: f"{label_of(name)} ({kind.source})" for name, kind in SCANNERS.items()}
    return {"title": TITLE, "paper": None, "rows": rows, "subjects": {}}


def _of_false_positives() -> dict[str, Any]:
    from orthogon.bench.false_positives import PUBLISHED, TITLE

    rows = {name: f"{paper.source}: {paper.before} before, {paper.after} after" for name, paper in PUBLISHED.items()}
    return {"title": TITLE, "paper": None, "rows": rows, "subjects": {}}
