"""Hugging Face datasets: names on the hub, saved datasets, and image folders with a metadata file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orthogon.data.columns import Column, labels_from, pick
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.folders import list_folder
from orthogon.data.listing import Listing
from orthogon.data.parquet import labelled, list_parquet, parquet_files
from orthogon.data.splits import choose_split


def list_hub(name: str, split: str | None) -> Listing:
    """`NAME[:config]` on the hub, or a local folder or parquet file.

    Raises:
        DataError: it cannot be loaded (the reason is told), no such split, no image or label column.
    """
    path = Path(name).expanduser()
    if not path.exists():
        return _list_dataset(*_from_hub(name, split))
    if path.is_file() or parquet_files(path):
        return list_parquet(path, split)
    if any((path / f).exists() for f in ("dataset_info.json", "dataset_dict.json")):
        return _list_dataset(*_saved(path, split), path)
    if any(path.rglob("metadata.*")):
        return _list_dataset(*_loaded("imagefolder", split, str(path), data_dir=str(path)), path)
    return list_folder(path, split)


def _from_hub(name: str, split: str | None) -> tuple[Any, str]:
    repository, _, config = name.partition(":")
    if repository.count("/") > 1 or repository.startswith((".", "/", "~")):
        raise DataError(f"hf:{name}: there is no such folder or file")
    return _loaded(repository, split, f"hf:{name}", config=config or None)


def _loaded(path: str, split: str | None, where: str, config: str | None = None, data_dir: str | None = None) -> tuple[Any, str]:
    import datasets  # slow to import, and only needed here

    try:
        builder = datasets.load_dataset_builder(path, config, data_dir=data_dir)
        chosen = choose_split(split, [str(name) for name in builder.info.splits or {}] or [split or "train"], where)
        return datasets.load_dataset(path, config, data_dir=data_dir, split=chosen), f"{where} ({chosen})"
    except DataError:
        raise
    except Exception as error:  # the hub's client raises network, permission and parsing errors of many libraries
        raise DataError(f"{where} cannot be loaded by Hugging Face datasets: {error}") from error


def _saved(path: Path, split: str | None) -> tuple[Any, str]:
    import datasets

    loaded = datasets.load_from_disk(str(path))
    if isinstance(loaded, datasets.DatasetDict):
        chosen = choose_split(split, [str(name) for name in loaded], str(path))
        return loaded[chosen], f"{path} ({chosen})"
    return loaded, str(path)


def _list_dataset(dataset: Any, where: str, folder: Path | None = None) -> Listing:
    """The rows of a data set, of which a local one may name image files of its own `folder` only."""
    import datasets

    columns = {name: _column(feature) for name, feature in dataset.features.items()}
    image, label = pick(columns, where)
    labels, classes = labelled(list(dataset[label]), columns[label].names, where)
    encoded = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        for i, row in zip(indices, encoded.select(indices), strict=True):
            content, path = row[image]["bytes"], row[image]["path"]
            yield f"{where} row {i}", content if content else _inside(path, folder, f"{where} row {i}") if path else b""

    return Listing(labels, classes, where + labels_from(label), fetch)


def _inside(path: str, folder: Path | None, where: str) -> Path:
    """The image file that a row names; a stranger's data set must not show files from elsewhere on this machine."""
    if folder is not None and not Path(path).resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{where} names the image {path}, outside the data set's folder {folder}; put the image there")
    return Path(path)


def _column(feature: Any) -> Column:
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return Column("class", tuple(feature.names))
    if isinstance(feature, datasets.Image):
        return Column("image")
    kind = str(getattr(feature, "dtype", ""))
    return Column("integer" if "int" in kind else "string" if "string" in kind else "other")
