"""`orthogon harden`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from orthogon.cli.presets import to_be_given
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, ModelWords, Seed
from orthogon.methods import METHODS, Family, HardeningSettings, Method, PervasiveSettings


@dataclass(frozen=True)
class Harden(Command):
    """Enlarge the class distances of a model, and measure them before and after.

    Examples:
      orthogon harden moth --model net.safetensors --arch resnet20 --data images/ --held-out fraction:0.1
      orthogon harden moth --model net.safetensors --data torchvision:cifar10 --flip --max-accuracy-loss 0.01 --minutes 20
      orthogon harden pairwise --model net.safetensors --data images/ --measure screen --pairs random:40
      orthogon harden deck --model net.safetensors --data images/ --encoder torchvision:vgg19 --decoder RUN
      orthogon harden adversarial --model net.safetensors --data images/ --measure none

    Methods: moth (both directions of the most promising pairs), moth-filter (the same with colour filters), moth-colour (with
    maps of colours), moth-additive (with faint pictures that are added), deck (with pervasive triggers), asymmetric (one
    direction at a time), universal (every class to one target, in turn), pairwise (every pair in turn), nc (Neural Cleanse's
    unlearning), adversarial (PGD), universal-adversarial (one perturbation for all images). The words --arms, --schedule,
    --warm-up, --no-reuse and so on make others of them.

    The run folder gets model.safetensors with its card, hardening.json (what happened), before.json and after.json (class
    distances) and report.html. The model kept is never below the accuracy bound; killed, the same command goes on.
    """

    method: tyro.conf.Positional[Method]
    """How to harden."""
    model: ModelWords
    images: ImageWords
    held_out: Annotated[str, tyro.conf.arg(metavar="PART")] = "fraction:0.1"
    """Part of the data that is not trained on: it tells the accuracy and the distances. first:2000, fraction:0.1, …; best
    images that the model itself was not trained on, since accuracy on the others falls faster than on new ones."""
    minutes: Annotated[float | None, tyro.conf.arg(metavar="M", help_behavior_hint="(default: no limit)")] = None
    """Most time to harden, beside --steps; measuring comes on top. With it the result depends on the machine's speed."""
    min_accuracy: Annotated[float | None, tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: none)")] = None
    """Least held-out accuracy, 0 to 1, beside the bound of --max-accuracy-loss."""
    measure: Literal["fast", "paper", "screen", "none"] = "fast"
    """Protocol of the distances before and after; none leaves them out. What you claim of a hardened model deserves paper: its
    triggers are harder to find, and the quicker protocols flatter it."""
    distances: Literal["own"] | Family = "own"
    """Kind of trigger whose sizes are the distances: own is the kind that hardens, another one a second opinion."""
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS")] = "all"
    """Pairs to measure: all; 0-1,2-5; random:20."""
    samples: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the protocol's)")] = None
    """Held-out images of each victim class to measure on; a class with fewer gets the outcome "too few samples"."""
    before: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: measured)")] = None
    """The distances before, measured earlier on the same model in the same way: a distances.json or before.json."""
    settings: HardeningSettings = field(default_factory=HardeningSettings)
    measured_by: Annotated[PervasiveSettings | None, tyro.conf.Suppress] = None
    """Of pervasive triggers that measure, where those that harden are an ablation of them; None: the same."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    force: bool = False
    """Harden a model even though its clean accuracy is near chance."""
    fresh: Fresh = False
    json: Json = False

    @classmethod
    def preset(cls, words: Sequence[str]) -> Harden | None:
        """The numbers of the method that is named."""
        before = ["", *words]  # a method's name may also be the value of an option, such as --out
        likely = [word for word, last in zip(words, before, strict=False) if word in METHODS and not last.startswith("--")]
        named = next((word for word in [*likely, *words] if word in METHODS), None)
        if named is None:
            return None
        return to_be_given(cls, model=to_be_given(ModelWords), images=to_be_given(ImageWords), settings=METHODS[named])

    def run(self, screen: Screen) -> Result:
        """Harden, measure and write the files."""
        from orthogon.cli.hardening import harden_and_write

        return harden_and_write(self, screen)
