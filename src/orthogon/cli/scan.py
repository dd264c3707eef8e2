"""`orthogon scan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from orthogon.cli.poison import Settings
from orthogon.cli.presets import is_given, to_be_given
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, Name, Seed

BACKDOORED, INCONCLUSIVE, FAILED = 10, 11, 12
"""Exit codes beside 0, clean, and those of every command."""


@dataclass(frozen=True)
class Scan(Command):
    """Scan models for backdoors: a verdict on each, with the suspicious pair, its trigger and the evidence.

    Examples:
      orthogon scan --model suspect.pt --arch resnet18 --data images/
      orthogon scan --model suspect.safetensors --data images/ --scanner nc --json
      orthogon scan --model suspect.safetensors --scanner mm-bd
      orthogon scan --model downloads/ --data images/ --timeout 1800 --jobs 2
      orthogon scan --model downloads/ --data images/ --ray 10.0.0.1:6379
      orthogon scan --model round4-train-dataset/models --timeout 3600
      orthogon scan zoo/signs-*/model.safetensors --data signs:classes=6,size=20,per_class=60
      orthogon scan list

    --data are clean images of all classes with their true labels; mm-bd needs none, and TrojAI's folders (id-00000000/ with a
    model.pt and clean_example_data/) bring their own. `orthogon scan list` tells the scanners, where they come from and their
    settings.

    The run folder gets scan.json, suspects.safetensors (the triggers, with images before and after stamping) and report.html.
    Several models, or a folder of them, are scanned each in a process and a folder of its own: one that is corrupt, takes too
    long or runs out of memory gets its own outcome and does not stop the others. Given again, the command scans those that are
    not finished; scans.json and report.html have all.

    Exit codes: 0 clean, 10 backdoored, 11 inconclusive; of several models 10 where one is backdoored, else 12 where one could not
    be scanned, else 11 where one is inconclusive, else 0; 12 also where the only model took longer than --timeout. 2, 3, 4 and
    130 mean what they mean for every command.
    """

    images: ImageWords
    models: Annotated[tuple[str, ...], tyro.conf.arg(name="model", metavar="F ...", help_behavior_hint="(one or more)")] = ()
    """Checkpoints (.safetensors, .pt, .pth, .bin, …, TorchScript), timm:NAME or torchvision:NAME, or folders: one with a model.*
    is that model's; of any other, its checkpoints and the model.* of its folders. A card F.json beside a model tells the rest."""
    more: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[list | F ...]")] = ()
    """list, which tells the scanners; or models, as for --model."""
    arch: Name = None
    """Architecture, where no card tells, as in `orthogon measure`."""
    normalization: Annotated[str | None, tyro.conf.arg(metavar="MEAN/STD")] = None
    """What the models were trained with, where no card tells, as in `orthogon measure`."""
    scanner: Literal["distance", "nc", "abs", "k-arm", "mm-bd", "ensemble"] = "distance"
    """distance: class distances of patches, colour maps, warps and added pictures, universal and of pairs; nc: Neural Cleanse;
    abs: ABS, of stimulated neurons; k-arm: K-Arm; mm-bd: MM-BD, which needs no images; ensemble: all, or those of
    --set scanners=nc,mm-bd."""
    settings: Settings = ()
    """Of the scanner, such as samples=20."""
    draws: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """How often to scan, each time with other samples and starts; draws that disagree are inconclusive."""
    jobs: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one per GPU, else per core)")] = None
    """Of several models, how many at once."""
    timeout: Annotated[
        float | None, tyro.conf.arg(metavar="SECONDS", help_behavior_hint="(default: 3600 of several models, none of one)")
    ] = None
    """How long a model may take; then its scan is ended."""
    retries: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Of several models, how often to try again one whose process was killed or crashed."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Scan on a Ray cluster: local, auto, HOST:6379 or ray://HOST:10001. Needs orthogon[ray]."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    force: bool = False
    """Scan a model even though its clean accuracy is near chance."""
    fresh: Fresh = False
    sarif: bool = False
    """Print SARIF 2.1.0, for what shows findings of static analysis, where --json prints the verdict."""
    json: Json = False

    def __post_init__(self) -> None:
        if self.sarif:
            object.__setattr__(self, "json", True)  # standard output is then for one JSON object, here too

    @classmethod
    def preset(cls, words: Sequence[str]) -> Scan | None:
        """`list` needs neither a model nor images; whether a scan does without --data is told when the models are known."""
        if words[:1] == ["list"]:
            return cls(ImageWords(""))
        return None if is_given("--data", words) else to_be_given(cls, images=ImageWords(""))

    def run(self, screen: Screen) -> Result:
        """Scan and write the files, or list the scanners."""
        from orthogon.cli.scanning import listed, scan_all

        return listed() if self.more == ("list",) else scan_all(self, screen)
