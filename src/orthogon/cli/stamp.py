"""`orthogon stamp`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from orthogon.cli.poison import Settings
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, ImageWords, Json, Seed


@dataclass(frozen=True)
class Stamp(Command):
    """What an attack does to a picture: the stamped picture, and clean, stamped and difference side by side.

    Examples:
      orthogon stamp wanet cat.png
      orthogon stamp blend cat.png --set alpha=0.1 --image-size 32 --out stamped.png
      orthogon stamp cat.png --from runs/poison-wanet-signs-1a2b3c4d
      orthogon stamp cat.png --from "clip(x + logo.png/255)"
      orthogon stamp gotham images/ --out stamped/

    An attack is made anew with its source's settings, for pictures of that size; --from takes the very trigger that was
    planted in a model. `orthogon poison list` lists the attacks. Of a folder every picture is stamped, into --out.
    """

    words: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ATTACK] PICTURE")]
    """An attack's name, unless --from is given, and a picture or a folder of pictures."""
    origin: Annotated[str | None, tyro.conf.arg(name="from", metavar="RUN", help_behavior_hint="(default: made anew)")] = None
    """A run folder of orthogon poison, its card or its trigger.safetensors, a stranger's card that tells a stamp, or a line:
    "x[27:31, 27:31] = 1", "clip(x + logo.png/255)"."""
    settings: Settings = ()
    """Of the attack, such as alpha=0.1 or colour=1,0,0."""
    image_size: Annotated[str | None, tyro.conf.arg(metavar="SIZE", help_behavior_hint="(default: its own)")] = None
    """Stretch pictures first: 32, 32x48 (height x width) or 1x28x28 (channels first); a planted trigger's own with --from."""
    data: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: the picture itself)")] = None
    """Training images, for attacks that are made from some: reflection, composite, dfst, input-aware, adaptive."""
    surrogate: Annotated[str | None, tyro.conf.arg(metavar="F", help_behavior_hint="(default: none)")] = None
    """A clean model with a card, for attacks whose trigger is made against one: input-aware, adaptive."""
    pictures: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: none)")] = None
    """Folder of pictures, or anything that --data takes: the style of dfst, the reflections of reflection."""
    seed: Seed = 0
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: <picture>-<attack>.png)")] = None
    """The stamped picture, a .png, beside which FILE-shown.png is written; of a folder the folder of stamped pictures."""
    device: Device = "auto"
    json: Json = False

    def shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of --image-size; None without one."""
        return ImageWords(self.data or "", image_size=self.image_size).shape()

    def run(self, screen: Screen) -> Result:
        """Stamp and write the pictures."""
        from orthogon.cli.stamping import stamp_and_write

        return stamp_and_write(self, screen)
