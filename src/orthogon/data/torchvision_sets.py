"""torchvision's CIFAR-10, SVHN, GTSRB, STL-10 and CelebA."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orthogon.data.arrays import list_arrays
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing
from orthogon.data.splits import choose_split

_CELEBA_TASK = ("Heavy_Makeup", "Smiling", "Mouth_Slightly_Open")
_SPLITS = {
    "cifar10": ("train", "test"),
    "svhn": ("train", "test", "extra"),
    "gtsrb": ("train", "test"),
    "stl10": ("train", "test"),
    "celeba": ("train", "valid", "test", "all"),
}


def list_torchvision(name: str, root: Path, split: str | None) -> Listing:
    """A set below `root`, where torchvision keeps it; downloaded if it is not there.

    CelebA is the backdoor papers' task of eight classes: 4·Heavy_Makeup + 2·Smiling + Mouth_Slightly_Open, the
    attributes and their order as in WaNet's and the Input-Aware attack's releases (attributes 18, 31, 21).

    Raises:
        DataError: another set or split, or neither a copy nor a download to be had.
    """
    if name not in _SPLITS:
        raise DataError(f"torchvision:{name} is not known, use one of {', '.join(_SPLITS)}")
    chosen = choose_split(split, _SPLITS[name], f"torchvision:{name}")
    source = f"torchvision:{name} ({chosen})"
    data = _opened(_opener(name, root, chosen), root, source)
    match name:
        case "cifar10":
            return list_arrays(data.data, np.asarray(data.targets), data.classes, source)
        case "svhn":
            return list_arrays(data.data, data.labels, [str(digit) for digit in range(10)], source)
        case "stl10":
            return list_arrays(data.data, data.labels.astype(np.int64), data.classes, source)
        case "gtsrb":
            files, labels = zip(*data._samples, strict=True)  # the files, so that threads decode them
            return _list_files(files, torch.tensor(labels), [str(c) for c in range(43)], source)
        case _:
            return _list_celeba(data, source)


def _opener(name: str, root: Path, split: str) -> Callable[[bool], Any]:
    from torchvision import datasets

    match name:
        case "cifar10":
            return lambda download: datasets.CIFAR10(root, train=split == "train", download=download)
        case "svhn":
            return lambda download: datasets.SVHN(root, split, download=download)
        case "gtsrb":
            return lambda download: datasets.GTSRB(root, split, download=download)
        case "stl10":
            return lambda download: datasets.STL10(root, split, download=download)
        case _:
            return lambda download: datasets.CelebA(root, split, download=download)


def _opened(opener: Callable[[bool], Any], root: Path, source: str) -> Any:
    try:
        return opener(False)
    except ImportError as error:
        raise DataError(f"{source} needs a package more: {error}") from error
    except (RuntimeError, OSError):
        pass  # no copy yet
    try:
        root.mkdir(parents=True, exist_ok=True)
        return opener(True)
    except Exception as error:  # downloads fail in as many ways as there are hosts
        raise DataError(
            f"{source} is not in {root} and cannot be downloaded ({error}); put torchvision's files there, or give "
            "their folder after @"
        ) from error


def _list_celeba(data: Any, source: str) -> Listing:
    bits = data.attr[:, [data.attr_names.index(name) for name in _CELEBA_TASK]]
    labels = (bits * torch.tensor([4, 2, 1])).sum(1)
    words = ("makeup", "smiling", "open-mouth")
    classes = [
        "+".join(w for w, on in zip(words, flags, strict=True) if on) or "none"
        for flags in itertools.product((False, True), repeat=3)
    ]
    folder = Path(data.root, data.base_folder, "img_align_celeba")
    task = f"{source}, 8 classes: heavy makeup × smiling × mouth slightly open"
    return _list_files([str(folder / name) for name in data.filename], labels, classes, task)


def _list_files(files: Sequence[str], labels: torch.Tensor, classes: Sequence[str], source: str) -> Listing:
    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return ((files[i], Path(files[i])) for i in indices)

    return Listing(labels.long(), tuple(classes), source, fetch)
