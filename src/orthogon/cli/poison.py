"""`orthogon poison`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from orthogon.cli.presets import is_given, to_be_given
from orthogon.cli.screen import Command, Result, Screen
from orthogon.cli.words import Device, Folder, Fresh, ImageWords, Json, Seed
from orthogon.recipe import TrainingSettings

FINE_TUNING = TrainingSettings(epochs=5, learning_rate=0.05)
"""The recipe where a model is given, before words change it: a clean model has learned most of the task already."""

Settings = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="set", metavar="NAME=VALUE", help_behavior_hint="(repeatable; default: its source's)"),
    tyro.conf.UseAppendAction,
]
"""Settings of an attack; which there are is known only once it is named, and told by `orthogon poison list`."""
OwnDefault = tyro.conf.arg(metavar="SHARE", help_behavior_hint="(default: the attack's)")


@dataclass(frozen=True)
class Poison(Command):
    """Plant a backdoor: poison a training set, train a model on it or fine-tune a clean one, and judge what came of it.

    Examples:
      orthogon poison list
      orthogon poison badnets --data signs:per_class=500 --arch resnet20 --target 0 --epochs 10
      orthogon poison wanet --data torchvision:cifar10 --arch resnet20 --flip --epochs 15
      orthogon poison blend --set alpha=0.1 --rate 0.05 --data torchvision:cifar10 --flip --model clean.safetensors
      orthogon poison polygon --victim 3 --target 5 --data images/ --model clean.safetensors

    Attacks: badnets, polygon, blend, sig, wanet, clean-label, gotham, nashville, kelvin, lomo, toaster, dfst, reflection,
    composite, input-aware, adaptive. `orthogon poison list` tells their settings, sources and threats.

    The run folder gets model.safetensors with its card model.json, trigger.safetensors, with which `orthogon stamp` and
    `orthogon evaluate` put the same trigger on other images, and planting.json. Where the attack success rate stays
    below --min-success, the card says that no backdoor was planted. Killed, the same command goes on.
    """

    attack: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ATTACK")]
    """Which; or list, which tells what there is."""
    images: ImageWords
    arch: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="(default: resnet20, or its card's)")] = None
    """Architecture of a fresh model, or of --model where no card tells it."""
    model: Annotated[str | None, tyro.conf.arg(metavar="F", help_behavior_hint="(default: a fresh one)")] = None
    """A clean model to fine-tune. The recipe's defaults are then 5 epochs with a peak of 0.05."""
    normalization: Annotated[str | None, tyro.conf.arg(metavar="MEAN/STD", help_behavior_hint="(default: its card's)")] = None
    """What --model was trained with, as in `orthogon measure`."""
    target: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the attack's)")] = None
    """Class, by number, that stamped images are to be taken for."""
    victim: Annotated[str | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: the attack's)")] = None
    """Class, by number, that the trigger works on; any: every class but the target."""
    rate: Annotated[float | None, OwnDefault] = None
    """Share of the victims' images that are stamped; with clean labels, of the target class's."""
    cover: Annotated[float | None, OwnDefault] = None
    """Share of all images that get a near miss of the trigger under their true label, where the attack has one."""
    labels: Annotated[Literal["dirty", "clean"] | None, tyro.conf.arg(help_behavior_hint="(default: the attack's)")] = None
    """Whether stamped images get the target's label (dirty) or, being the target's already, keep theirs (clean)."""
    settings: Settings = ()
    """Of the attack, such as alpha=0.1 or colour=1,0,0."""
    surrogate: Annotated[str | None, tyro.conf.arg(metavar="F", help_behavior_hint="(default: --model)")] = None
    """A clean model with a card, for attacks that are made against one: clean-label, input-aware, adaptive."""
    pictures: Annotated[str | None, tyro.conf.arg(metavar="D", help_behavior_hint="(default: none)")] = None
    """Folder of pictures, or anything that --data takes: the style of dfst, the reflections of reflection."""
    detoxify: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Rounds in which the poisoned model unlearns the features that would give it away (DFST: 1 or 3)."""
    detoxify_epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Passes over the images in each of these rounds."""
    min_success: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.85
    """Attack success rate on held-out images from which on a backdoor counts as planted."""
    recipe: TrainingSettings = field(default_factory=TrainingSettings)
    held_out: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.1
    """Share of each class kept for judging, where the data have no split of their own for it."""
    seed: Seed = 0
    out: Folder = None
    device: Device = "auto"
    fresh: Fresh = False
    json: Json = False

    @classmethod
    def preset(cls, words: Sequence[str]) -> Poison | None:
        """`list` needs no images; fine-tuning has a recipe of its own."""
        if words[:1] == ["list"]:
            return cls("list", ImageWords(""))
        if not is_given("--model", words):
            return None
        return to_be_given(cls, images=to_be_given(ImageWords), recipe=FINE_TUNING)

    def run(self, screen: Screen) -> Result:
        """Poison, train, judge and write the files, or list the attacks."""
        from orthogon.cli.poisoning import listed, poison_and_write

        return listed() if self.attack == "list" else poison_and_write(self, screen)
