"""Parquet files in the Hugging Face layout, read with pyarrow: no cache is written, and only what is drawn is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from orthogon.data.classes import natural, numbered
from orthogon.data.columns import Column, labels_from, pick
from orthogon.data.decoding import Encoded
from orthogon.data.errors import DataError
from orthogon.data.listing import Listing
from orthogon.data.splits import choose_split


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder or of its `data` subfolder, in natural order."""
    for place in (folder, folder / "data"):
        if found := sorted(place.glob("*.parquet"), key=lambda p: natural(p.name)):
            return found
    return []


def list_parquet(path: Path, split: str | None) -> Listing:
    """The rows of a parquet file, or of the files of a folder whose names begin with the split ("test-00000…").

    Raises:
        DataError: no such split, no image or label column, labels that are none of the named classes, rows without a
            label, files that are not parquet.
    """
    splits: dict[str, list[Path]] = {}
    for file in parquet_files(path) if path.is_dir() else [path]:
        splits.setdefault(_split_of(file), []).append(file)
    name = choose_split(split, splits, str(path)) if path.is_dir() or split else next(iter(splits))
    try:
        files = [pq.ParquetFile(file) for file in splits[name]]
        columns = _columns(files[0].schema_arrow, splits[name][0])
        image, label = pick(columns, str(path))
        values = [v for file in files for v in file.read(columns=[label]).column(label).to_pylist()]
    except pa.ArrowException as error:
        raise DataError(f"{splits[name][0]} cannot be read as parquet: {error}") from error
    labels, classes = labelled(values, columns[label].names, str(path))

    def fetch(indices: Sequence[int]) -> Iterator[tuple[str, Encoded]]:
        return _rows(files, splits[name], image, np.asarray(indices))

    return Listing(labels, classes, f"{path} ({name}){labels_from(label)}", fetch)


def labelled(values: Sequence[Any], names: Sequence[str], where: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Labels and class names of a label column: the column's own names, or numbered.

    Raises:
        DataError: a row without a label, or a label without a name.
    """
    if None in values:
        raise DataError(f"{where}: row {values.index(None)} has no label")
    if not names:
        return numbered(values)
    known = range(len(names))
    strangers = [v for v in values if v not in known]  # text is none either, whatever the features say of its column
    if strangers:
        raise DataError(f"{where}: label {strangers[0]!r:.40} is none of the {len(names)} named classes, 0 to {len(names) - 1}")
    return torch.tensor(values, dtype=torch.int64), tuple(names)


def _split_of(file: Path) -> str:
    return re.split(r"[-_.]", file.stem)[0]


def _columns(schema: pa.Schema, file: Path) -> dict[str, Column]:
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: its metadata 'huggingface' are not JSON: {error}") from error
    features = _within(_within(told, "info"), "features")
    return {field.name: _column(field.type, _within(features, field.name)) for field in schema}


def _within(told: Any, key: str) -> dict[str, Any]:
    """What stands under a key of a file's metadata; empty where that is nothing, or no object."""
    found = told.get(key) if isinstance(told, dict) else None
    return found if isinstance(found, dict) else {}


def _column(kind: pa.DataType, feature: dict[str, Any]) -> Column:
    if feature.get("_type") == "ClassLabel" and not pa.types.is_nested(kind):
        names = feature.get("names")
        return Column("class", tuple(map(str, names)) if isinstance(names, list) else ())
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return Column("image")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Column("image")
    if pa.types.is_integer(kind):
        return Column("integer")
    return Column("string" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other")


def _rows(
    files: Sequence[pq.ParquetFile], paths: Sequence[Path], column: str, indices: np.ndarray
) -> Iterator[tuple[str, Encoded]]:
    """Encoded images of ascending row numbers, a batch in memory at a time; groups without any are not read."""
    starts = accumulate((file.metadata.num_rows for file in files), initial=0)
    for file, path, start in zip(files, paths, starts, strict=False):
        groups = (file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))
        for group, at in zip(range(file.num_row_groups), accumulate(groups, initial=start), strict=False):
            end = at + file.metadata.row_group(group).num_rows
            mine = indices[np.searchsorted(indices, at) : np.searchsorted(indices, end)] - at
            if len(mine):
                yield from _group(file, group, column, mine, path, at - start)


def _group(
    file: pq.ParquetFile, group: int, column: str, rows: np.ndarray, path: Path, offset: int
) -> Iterator[tuple[str, Encoded]]:
    at = 0
    for batch in file.iter_batches(256, row_groups=[group], columns=[column]):
        mine = rows[np.searchsorted(rows, at) : np.searchsorted(rows, at + len(batch))]
        values = batch.column(0)
        blobs = values.field("bytes") if pa.types.is_struct(values.type) else values
        for row, blob in zip(mine.tolist(), blobs.take(pa.array(mine - at)).to_pylist(), strict=True):
            yield f"{path} row {offset + row}", blob or b""  # no bytes: told as "not an image"
        at += len(batch)
