"""`orthogon measure`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, ModelWords, Seed
from orthogon.methods import Family, PervasiveSettings


@dataclass(frozen=True)
class Measure(Command):
    """Measure the class distances of a model: the size of the smallest trigger that turns one class into another.

    Examples:
      orthogon measure --model net.safetensors --arch resnet20 --data images/
      orthogon measure --model net.safetensors --data images/ --pairs 0-1,2-5 --protocol paper
      orthogon measure --model timm:resnet18.a1_in1k --data hf:some/dataset --protocol screen --pairs random:200
      orthogon measure --model timm:resnet18.a1_in1k --data hf:some/dataset --pairs universal
      orthogon measure --model net.safetensors --data images/ --samples 50 --draws 5
      orthogon measure --model net.safetensors --data images/ --family pervasive --encoder torchvision:vgg19 --decoder RUN

    The run folder gets distances.json, triggers.safetensors and report.html.
    Exit code 3 says that the clean accuracy is near chance, so that distances would mean nothing.
    """

    model: ModelWords
    images: ImageWords
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS")] = "all"
    """all; 0-1,2-5 (victim-target, by number); random:20; "*-3" (every class to 3); universal (every class to each)."""
    family: Family = "patch"
    """Kind of trigger: patch, a pattern under a mask; filter, a mean and a deviation that each colour channel is given;
    colour, one map of the colours of all pixels; warp, a smooth field that bends the image; additive, a faint picture that
    is added to it; pervasive, features changed region by region and decoded (DECK), by --encoder and --decoder."""
    protocol: Literal["fast", "paper", "screen", "neural-cleanse"] = "fast"
    """fast agrees with paper (100 samples, 1000 epochs, best of 3) in a fraction of its time; screen is a quick upper
    bound for many classes; neural-cleanse is that paper's own search, meant for --pairs universal."""
    samples: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the protocol's)")] = None
    """Images of each victim class to search and judge on; a class with fewer gets the outcome "too few samples"."""
    draws: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """How often the samples are drawn anew; a distance is then the mean over the draws, its spread their deviation."""
    pervasive: PervasiveSettings = field(default_factory=PervasiveSettings)
    seed: Seed = 0
    out: Folder = None
    memory: Annotated[float | None, tyro.conf.arg(metavar="GIB", help_behavior_hint="(default: a quarter of what's free)")] = None
    """Most memory to use, in GiB."""
    device: Device = "auto"
    force: bool = False
    """Measure a model even though its clean accuracy is near chance."""
    fresh: Fresh = False
    json: Json = False

    def run(self, screen: Screen) -> Result:
        """Measure and write the files."""
        from orthogon.cli.measuring import measure_and_write

        return measure_and_write(self, screen)
