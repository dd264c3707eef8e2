"""`orthogon zoo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Fresh, Json, Seed

_FOLDERS = "runs/zoo; --like: runs/zoo-trojai; fetch: models; gallery: runs/gallery"


@dataclass(frozen=True)
class Zoo(Command):
    """Clean and poisoned models with a card each: list them, build them again, fetch those that are shipped, see their triggers.

    Examples:
      orthogon zoo list
      orthogon zoo fetch cifar10-resnet20-wanet --out models
      orthogon zoo build signs
      orthogon zoo build cifar10-resnet20 --data torchvision:cifar10 --pictures sunrise/
      orthogon zoo build --like trojai --models 20 --seed 1 --out runs/like-trojai
      orthogon zoo gallery --data torchvision:cifar10

    build makes a run folder per model and goes on where it was interrupted; a model that fails is listed with its reason, and
    the others go on. Each has its seed, recipe and settings declared. A model whose attack success rate stays too low is
    no poisoned model: its card says so, and it is never shipped. In either case build names the model at the end and exits
    with code 2. fetch checks the SHA-256 of what it copies.

    build --like trojai makes another set of models, laid out as TrojAI's fourth round: small torchvision networks on the built-in
    signs, half of them clean, the others with a polygon or a filter that works on one class or on all; half are trained
    adversarially too. `orthogon scan --model FOLDER` scans them, each by its own example pictures.
    """

    action: tyro.conf.Positional[Literal["list", "build", "fetch", "gallery"]]
    """What to do."""
    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME ...")] = ()
    """Models, or parts of the zoo (cifar10-resnet20, signs): all without names; for the gallery, attacks."""
    data: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: none)")] = None
    """CIFAR-10, where its models are built; the gallery's pictures (without it the built-in signs)."""
    pictures: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: none)")] = None
    """Folder of pictures whose style dfst learns."""
    surrogate: Annotated[str | None, tyro.conf.arg(metavar="F", help_behavior_hint="(default: none)")] = None
    """For the gallery: a clean model with a card, for attacks that are made against one."""
    shelf: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="(default: zoo/ of this checkout)")] = None
    """Where shipped models lie."""
    ship: bool = False
    """build: put what was planted, and what is clean, on the shelf."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint=f"(default: {_FOLDERS})")] = None
    """Folder of the runs, of the fetched copies, of the gallery; list looks for built models there."""
    like: Annotated[Literal["trojai"] | None, tyro.conf.arg(metavar="trojai", help_behavior_hint="(default: none)")] = None
    """build: a set laid out as TrojAI's fourth round, in place of the zoo's own models."""
    models: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Of a set: how many models. A larger number later adds to the set; what is there stays."""
    seed: Seed = 0
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """List, build, fetch or show."""
        from orthogon.cli import zooing

        match self.action:
            case "list":
                return zooing.listed(self)
            case "build":
                return zooing.build(self, screen)
            case "fetch":
                return zooing.fetched(self)
            case "gallery":
                from orthogon.cli.gallery import gallery

                return gallery(self, screen)
