"""The words that commands share: which model, which images, where results go. PyTorch, slow to import, stays out."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro


class NearChance(ValueError):
    """The model's clean accuracy is too close to guessing to go on."""


Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Json = Annotated[bool, tyro.conf.arg(help="Print the result as JSON on standard output, and nothing else there.")]


def _seed(words: list[str]) -> int:
    if not (words[0].isdecimal() and int(words[0]) < 2**63):
        raise ValueError(f"a whole number from 0 to {2**63 - 1} is needed, got {words[0]}")
    return int(words[0])


Seed = Annotated[
    int,
    tyro.conf.arg(help="Of every random draw: the same seed gives the same result."),
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="N",
        instance_from_str=_seed,
        is_instance=lambda seed: isinstance(seed, int),
        str_from_instance=lambda n: [str(n)],
    ),
]
Fresh = Annotated[bool, tyro.conf.arg(help="Begin anew; an earlier run in the folder is kept beside it.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], tyro.conf.arg(help="Where to compute; auto takes a GPU where there is one.")]
Folder = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="RUN",
        help="Folder of the results; a run that was interrupted goes on there.",
        help_behavior_hint="(default: runs/<command>-<model>-<settings>)",
    ),
]


@dataclass(frozen=True)
class ModelWords:
    """The model."""

    model: Annotated[str, tyro.conf.arg(metavar="F")]
    """A checkpoint (.safetensors, .pt, .pth, TorchScript), timm:NAME or torchvision:NAME. A card F.json beside it tells
    the rest."""
    arch: Name = None
    """Its architecture, where no card tells: resnet20, vgg13_bn, timm:NAME, torchvision:NAME, … or file.py:function."""
    normalization: Annotated[str | None, tyro.conf.arg(metavar="MEAN/STD")] = None
    """What it was trained with: 0.49,0.48,0.45/0.25,0.24,0.26, or imagenet, cifar10, none, or a card.json."""


@dataclass(frozen=True)
class ImageWords:
    """The images."""

    data: Annotated[str, tyro.conf.arg(metavar="D")]
    """A folder with a folder per class, .npz or .parquet, hf:NAME, torchvision:cifar10, or the built-in signs (also
    signs:classes=20,size=48,per_class=200)."""
    split: Name = None
    """Part of the data, such as test; without it held-out images where there are any."""
    subset: Annotated[str | None, tyro.conf.arg(metavar="PART")] = None
    """first:2000, range:2000:4000, fraction:0.05 or per-class:100 of it."""
    image_size: Annotated[str | None, tyro.conf.arg(metavar="SIZE")] = None
    """32, 32x48 (height x width) or 1x28x28 (channels first), where the model does not tell or takes several."""

    def shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of --image-size; None without one.

        Raises:
            ValueError: it is none of the forms.
        """
        if self.image_size is None:
            return None
        sides = self.image_size.lower().split("x")
        match [int(side) for side in sides if side.isdecimal() and int(side)]:
            case [side] if len(sides) == 1:
                return 3, side, side
            case [height, width] if len(sides) == 2:
                return 3, height, width
            case [channels, height, width] if len(sides) == 3:
                return channels, height, width
            case _:
                raise ValueError(f"--image-size {self.image_size!r} is none of 32, 32x48 (HxW), 1x28x28 (CxHxW)")


def words_of(*groups: Any) -> dict[str, Any]:
    """The words of dataclasses as one flat dictionary, for settings.json."""
    words = {name: value for group in groups for name, value in asdict(group).items()}
    for name in ("model", "data"):  # images and images/ are one folder
        if isinstance(words.get(name), str) and os.path.exists(words[name]):  # noqa: PTH110 - a Path would cut "hf:a//b"
            words[name] = os.path.normpath(words[name])
    return words


def default_folder(command: str, stem: str, settings: dict[str, Any]) -> Path:
    """Where results go without --out: the same command finds its run again, another one never meets it."""
    from orthogon import runs

    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return Path("runs") / f"{command}-{name}-{runs.settings_digest(settings)}"


def stem_of(name: str) -> str:
    """A model's or data set's short name: of a path its last part without the suffix."""
    path = Path(name)
    return path.stem if path.suffix in (".safetensors", ".pt", ".pth", ".npz", ".parquet") else path.name or name
