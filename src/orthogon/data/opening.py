"""One door to all sources of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orthogon.data.arrays import list_npz
from orthogon.data.errors import DataError
from orthogon.data.folders import list_folder
from orthogon.data.hub import list_hub
from orthogon.data.listing import Listing, Wanted, gather
from orthogon.data.parquet import list_parquet, parquet_files
from orthogon.data.signs import open_signs
from orthogon.data.torchvision_sets import list_torchvision
from orthogon.data.trojai import examples_of, open_examples
from orthogon.images import LabelledImages


def open_images(
    spec: str,
    *,
    split: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    memory: int | None = None,
    skip_corrupt: bool = False,
) -> LabelledImages:
    """Labelled images from wherever `spec` says.

    Args:
        spec: a folder with a subfolder per class, a TrojAI model's folder or its folder of example images, a `.parquet`
            file or a folder of them, an `.npz` file, `hf:NAME[:config]` (Hugging Face hub) or `hf:PATH`,
            `torchvision:cifar10|svhn|gtsrb|stl10|celeba[@ROOT]`, or `signs[:classes=10,size=32,per_class=200,seed=0]`.
        split: which part; without it held-out images where the source has such a split (test, validation, …).
        image_shape: (channels, height, width) that a model takes: images are converted and stretched to it.
        classes: a model's class names in its order; labels are brought into that order.
        limit: most images of one class, drawn by `seed`.
        seed: of every draw; the built-in signs are drawn from it too.
        memory: most bytes of pixels (a quarter of the machine's memory, or of its container's); a larger set is sampled
            class-balanced.
        skip_corrupt: leave out images that cannot be read, instead of an error.

    Returns:
        The images; `source` says where from, and what was sampled, assumed or missing.

    Raises:
        DataError: whatever the user can fix, with how.
    """
    if image_shape is not None and (image_shape[0] not in (1, 3) or min(image_shape) < 1):
        raise DataError(f"an image shape is (1 or 3, height, width), got {image_shape}")
    wanted = Wanted(image_shape, classes, limit, seed, memory, skip_corrupt)
    kind, _, rest = spec.partition(":")
    if kind == "signs" and not Path(spec).exists():
        return open_signs(rest, split, wanted)
    if Path(spec).expanduser().is_dir() and split is None and examples_of(Path(spec).expanduser()) is not None:
        return open_examples(Path(spec).expanduser(), wanted)
    return gather(_listed(spec, kind, rest, split), wanted)


def _listed(spec: str, kind: str, rest: str, split: str | None) -> Listing:
    if kind == "hf" and rest:
        return list_hub(rest, split)
    if kind == "torchvision" and rest:
        name, _, root = rest.partition("@")
        return list_torchvision(name, Path(root or "~/.cache/orthogon").expanduser(), split)
    path = Path(spec).expanduser()
    if path.is_dir():
        return list_parquet(path, split) if parquet_files(path) else list_folder(path, split)
    if path.is_file() and path.suffix in (".npz", ".parquet"):
        return (list_npz if path.suffix == ".npz" else list_parquet)(path, split)
    raise DataError(
        f"no images at {spec!r}: give a folder with a subfolder per class, a .npz or .parquet file, hf:NAME, "
        "torchvision:NAME or signs"
    )
