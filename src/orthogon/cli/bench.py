"""`orthogon bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from orthogon.bench import GRIDS
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, ModelWords, Seed
from orthogon.methods import HardeningSettings


@dataclass(frozen=True)
class Bench(Command):
    """A paper's table on your own model: each of its methods with the same budget, published figures beside yours.

    Examples:
      orthogon bench list
      orthogon bench moth-table3 --model net.safetensors --data torchvision:cifar10 --flip --minutes 20 \\
          --pairs random:20 --subject cifar10-resnet20
      orthogon bench moth-table1 --model net.safetensors --data images/ --rows moth,universal --steps 500

    Grids: moth-table1 (naturally trained models: NC, UAP, Universal, Pairwise, MOTH), moth-table2 (adversarially trained
    models, which go on being trained adversarially), moth-table3 (MOTH without one of its design choices each).
    `orthogon bench list` tells their rows and subjects.

    The run folder gets bench.json, bench.md, bench.html and a folder of `orthogon harden` per row. A row that fails is
    listed with its reason, and the others go on; killed, the same command goes on, and finished rows are read.
    """

    grid: tyro.conf.Positional[Literal["list", "moth-table1", "moth-table2", "moth-table3"]]
    """The table; or list, which tells what there is."""
    model: ModelWords
    images: ImageWords
    rows: Annotated[str | None, tyro.conf.arg(metavar="ROW,…", help_behavior_hint="(default: all)")] = None
    """Rows to run: moth,universal. Other rows can be added later in the same folder."""
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
    """Numbers of every row alike; what makes a method (--arms, --schedule, …) is the rows' to choose, and refused."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    force: bool = False
    """Harden a model even though its clean accuracy is near chance."""
    fresh: Fresh = False
    json: Json = False

    @classmethod
    def preset(cls, words: Sequence[str]) -> Bench | None:
        """`list` needs no model and no images."""
        return cls("list", ModelWords(""), ImageWords("")) if words[:1] == ["list"] else None

    def run(self, screen: Screen) -> Result:
        """Run the rows and write the tables, or list the grids."""
        if self.grid == "list":
            return _listed()
        from orthogon.cli.benching import bench_and_write

        return bench_and_write(self, screen)


def _listed() -> Result:
    data, told = {}, []
    for grid in GRIDS.values():
        rows = {row.key: row.label + (f" ({row.note})" if row.note else "") for row in grid.rows}
        subjects = {subject.key: f"{subject.label} ({subject.source})" for subject in grid.subjects}
        data[grid.name] = {"title": grid.title, "paper": grid.paper, "rows": rows, "subjects": subjects}
        lines = [f"{grid.name}: {grid.title}", "  rows"]
        lines += [f"    {key:<18}{label}" for key, label in rows.items()]
        lines += ["  subjects", *(f"    {key:<18}{label}" for key, label in subjects.items())]
        told.append("\n".join(lines) + "\n")
    return Result(data, told)
