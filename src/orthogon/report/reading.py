"""A finished run's files, as the pages and tables need them; nothing here touches a model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orthogon import runs
from orthogon.matrix import DistanceMatrix
from orthogon.report.words import Size, printable


@dataclass(frozen=True)
class PairRow:
    """One measured pair; value, asr and spread are NaN where there is none."""

    victim: int
    target: int
    value: float
    asr: float
    spread: float
    outcome: str

    @property
    def found(self) -> bool:
        """Whether the pair has a distance."""
        return self.outcome == "found" and math.isfinite(self.value)


@dataclass(frozen=True, eq=False)
class TriggerPictures:
    """One sample of the victim class before and after stamping, and the mask where the family has one."""

    clean: UInt8[Tensor, "c h w"]
    stamped: UInt8[Tensor, "c h w"]
    mask: Float[Tensor, "1 h w"] | None


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """distances.json as a matrix and as it stands (`record`), settings.json, and where the triggers lie."""

    folder: Path
    matrix: DistanceMatrix
    record: dict[str, Any]
    started: dict[str, Any]
    size: Size

    @property
    def model_name(self) -> str:
        """The file or name that the model was loaded from, as far as distances.json tells."""
        model = self.record.get("model") or {}
        found = [model[key] for key in ("name", "path", "file", "model", "source") if isinstance(model.get(key), str)]
        name = (Path(found[0]).name or found[0]) if found else "a classifier"
        return name.removesuffix(".safetensors").removesuffix(".pth").removesuffix(".pt")


def read_run(folder: Path) -> MeasuredRun:
    """The results of a run.

    Raises:
        ValueError: the folder has no distances.json, or that file or triggers.safetensors is not what it should be.
        RunError: settings.json is not the settings of a run.
    """
    path = folder / "distances.json"
    if not path.exists():
        raise ValueError(f"{folder} has no distances.json; give the folder of a finished `orthogon measure`")
    record = _read_json(path)
    try:
        matrix = DistanceMatrix.from_json(record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a distance matrix: {error!r}") from error
    started = runs.read_settings(folder) or {}
    return MeasuredRun(folder, matrix, record, started, Size(matrix.unit, _image_shape(folder, record)))


def pair_rows(matrix: DistanceMatrix) -> list[PairRow]:
    """Every measured pair: smallest distance first, then those without a distance in the order of the classes."""
    values, asr, spread = matrix.values.tolist(), matrix.asr.tolist(), matrix.spread.tolist()
    rows = [
        PairRow(v, t, values[v][t], asr[v][t], spread[v][t], outcome)
        for v, outcomes in enumerate(matrix.outcomes)
        for t, outcome in enumerate(outcomes)
        if v != t and outcome is not None
    ]
    return sorted(rows, key=lambda row: (0, row.value) if row.found else (1, 0.0))


def pair_name(matrix: DistanceMatrix, row: PairRow) -> str:
    """ "cat → dog"."""
    return f"{printable(matrix.classes[row.victim])} → {printable(matrix.classes[row.target])}"


def failures(rows: Sequence[PairRow]) -> dict[str, int]:
    """How many pairs have no distance, by outcome, the most frequent first."""
    return dict(Counter(row.outcome if row.outcome != "found" else "not finite" for row in rows if not row.found).most_common())


def found_values(matrix: DistanceMatrix) -> Float[Tensor, "victims targets"]:
    """The distances of the found pairs; NaN wherever the outcome is another, whatever the value says."""
    values = torch.full_like(matrix.values, math.nan)
    for row in pair_rows(matrix):
        if row.found:
            values[row.victim, row.target] = row.value
    return values


def trigger_pictures(folder: Path, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], TriggerPictures]:
    """The pictures of those pairs (victim, target) that triggers.safetensors has; only their rows are read.

    Raises:
        ValueError: the file is no safetensors file or lacks a tensor of the contract.
    """
    with _triggers(folder) as file:
        if file is None:
            return {}
        names = set(file.keys())
        if "pairs" in names and not file.get_slice("pairs").get_shape()[0]:
            return {}  # without a trigger there are no pictures either
        if missing := {"pairs", "clean", "stamped"} - names:
            raise ValueError(f"{folder / 'triggers.safetensors'} lacks the tensors {sorted(missing)}")
        rows = {(int(v), int(t)): k for k, (v, t) in enumerate(file.get_tensor("pairs").tolist())}
        return {pair: _pictures(file, rows[pair], "trigger.mask" in names) for pair in pairs if pair in rows}


def _pictures(file: Any, row: int, masked: bool) -> TriggerPictures:
    clean, stamped = (file.get_slice(name)[row : row + 1][0] for name in ("clean", "stamped"))
    mask = file.get_slice("trigger.mask")[row : row + 1][0].float() if masked else None
    return TriggerPictures(clean, stamped, mask)


@contextmanager
def _triggers(folder: Path) -> Iterator[Any]:
    path = folder / "triggers.safetensors"
    if not path.exists():
        yield None
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _image_shape(folder: Path, record: dict[str, Any]) -> tuple[int, int, int] | None:
    with _triggers(folder) as file:
        if file is not None and "clean" in file.keys():  # noqa: SIM118 - safe_open is no mapping
            _, channels, height, width = file.get_slice("clean").get_shape()
            return channels, height, width
    shape = (record.get("model") or {}).get("image_shape")
    return (int(shape[0]), int(shape[1]), int(shape[2])) if shape and len(shape) == 3 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content
