"""A finished run's files, as the pages and tables need them; nothing here touches a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orthogon import runs
from orthogon.matrix import DistanceMatrix
from orthogon.printing import printable
from orthogon.protocols import InversionSettings, Stage
from orthogon.report.words import Size

ANY = -1
"""As a victim, every class but the target: so the file of triggers has it."""


@dataclass(frozen=True)
class PairRow:
    """One measured pair; value, asr and spread are NaN where there is none."""

    victim: int
    """A class, or `ANY`."""
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
class ColourShift:
    """Mean and deviation of each channel, 0 to 1: those of the samples, and those that a filter gives to every image."""

    clean_mean: Float[Tensor, " c"]
    clean_std: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    std: Float[Tensor, " c"]


@dataclass(frozen=True, eq=False)
class TriggerPictures:
    """One sample of the victim class before and after stamping, and the mask or the shift where the family has one."""

    clean: UInt8[Tensor, "c h w"]
    stamped: UInt8[Tensor, "c h w"]
    mask: Float[Tensor, "1 h w"] | None
    shift: ColourShift | None = None


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """Distances as a matrix and as they stand in their file (`record`), settings.json, and the file of the triggers."""

    triggers: Path
    """It need not be there."""
    matrix: DistanceMatrix
    record: dict[str, Any]
    started: dict[str, Any]
    size: Size

    @property
    def model_name(self) -> str:
        """The file or name that the model was loaded from, as far as the record tells."""
        return model_name(self.record)


def is_hardening(folder: Path) -> bool:
    """Whether the folder holds a run of `orthogon harden`.

    Raises:
        RunError: settings.json is not the settings of a run.
    """
    started = runs.read_settings(folder)
    return started["command"] == "harden" if started else (folder / "hardening.json").exists()


def read_run(folder: Path) -> MeasuredRun:
    """The distances of a run; of a hardening run, those of the hardened model.

    Raises:
        ValueError: the folder has no distances, or their file or that of the triggers is not what it should be.
        RunError: settings.json is not the settings of a run.
    """
    hardening = is_hardening(folder)
    run = read_distances(
        folder, *(("after.json", "after.safetensors") if hardening else ("distances.json", "triggers.safetensors"))
    )
    if run is None and hardening:
        raise ValueError(
            f"{folder} is a hardening run without after.json (it is unfinished, or measured nothing); "
            f"measure its model with `orthogon measure --model {folder / 'model.safetensors'}` and give that run"
        )
    if run is None:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        wanted = "a finished `orthogon measure` or `orthogon harden`"
        raise ValueError(f"{folder} has no distances.json; give the folder of {wanted}")
    return run


def read_distances(folder: Path, distances: str, triggers: str) -> MeasuredRun | None:
    """The distances and triggers in those files of a run's folder; None without the first.

    Raises:
        ValueError, RunError: as for `read_run`.
    """
    path = folder / distances
    if not path.exists():
        return None
    record = runs.read_json(path)
    try:
        matrix = DistanceMatrix.from_json(record)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a distance matrix: {error!r}") from error
    shape = _image_shape(folder / triggers, record)
    return MeasuredRun(folder / triggers, matrix, record, runs.read_settings(folder) or {}, Size(matrix.unit, shape))


def model_name(record: Mapping[str, Any]) -> str:
    """The file or name that a record's model was loaded from, without what its format adds."""
    model = record.get("model") or {}
    found = [model[key] for key in ("name", "path", "file", "model", "source") if isinstance(model.get(key), str)]
    name = (Path(found[0]).name or found[0]) if found else "a classifier"
    return name.removesuffix(".safetensors").removesuffix(".pth").removesuffix(".pt")


def search_settings(record: Mapping[str, Any]) -> InversionSettings | None:
    """How the distances of a record were searched; None where it does not tell.

    A record holds every field that there was when it was written. One that it lacks is therefore younger and has its default,
    which leaves a search as it was before; one that is unknown here is of another search.

    Raises:
        ValueError: the record's settings are none of this version's.
    """
    told = (record.get("settings") or {}).get("search")
    if told is None:
        return None
    try:
        return InversionSettings(**{**_tuples(told), "stages": tuple(Stage(**_tuples(stage)) for stage in told["stages"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the distances were searched in a way that this version does not know: {error}") from error


def _tuples(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}


@lru_cache(maxsize=8)  # a page asks a dozen times, and there are 10,000 pairs of 100 classes
def pair_rows(matrix: DistanceMatrix) -> tuple[PairRow, ...]:
    """Every measured pair: smallest distance first, then those without a distance in the order of the classes."""
    values, asr, spread = matrix.values.tolist(), matrix.asr.tolist(), matrix.spread.tolist()
    rows = [
        PairRow(v, t, values[v][t], asr[v][t], spread[v][t], outcome)
        for v, outcomes in enumerate(matrix.outcomes)
        for t, outcome in enumerate(outcomes)
        if v != t and outcome is not None
    ]
    return _smallest_first(rows)


def universal_rows(record: Mapping[str, Any]) -> tuple[PairRow, ...]:
    """The universal triggers of a record or of a matrix's facts, as pairs of the victim `ANY`, ordered as `pair_rows`."""

    def row(entry: Mapping[str, Any]) -> PairRow:
        value, asr = (math.nan if entry.get(name) is None else float(entry[name]) for name in ("value", "asr"))
        return PairRow(ANY, int(entry["target"]), value, asr, math.nan, str(entry.get("outcome")))

    return _smallest_first(row(entry) for entry in record.get("universal") or [])


def _smallest_first(rows: Iterable[PairRow]) -> tuple[PairRow, ...]:
    return tuple(sorted(rows, key=lambda row: (0, row.value) if row.found else (1, 0.0)))


def victim_name(classes: Sequence[str], row: PairRow) -> str:
    """The victim class, or "any other class"."""
    return "any other class" if row.victim == ANY else printable(classes[row.victim])


def pair_name(classes: Sequence[str], row: PairRow) -> str:
    """ "cat → dog"."""
    return f"{victim_name(classes, row)} → {printable(classes[row.target])}"


def failures(rows: Sequence[PairRow]) -> dict[str, int]:
    """How many pairs have no distance, by outcome, the most frequent first."""
    return dict(Counter(row.outcome if row.outcome != "found" else "not finite" for row in rows if not row.found).most_common())


def found_values(matrix: DistanceMatrix) -> Float[Tensor, "victims targets"]:
    """The distances of the found pairs; NaN wherever the outcome is another, whatever the value says."""
    found = torch.tensor([[outcome == "found" for outcome in row] for row in matrix.outcomes])
    pairs = found & ~torch.eye(len(found), dtype=torch.bool) & matrix.values.isfinite()
    return matrix.values.where(pairs, math.nan)


def trigger_pictures(path: Path, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], TriggerPictures]:
    """The pictures of those pairs (victim or `ANY`, target) that a file of triggers has; only their rows are read.

    Raises:
        ValueError: the file is no safetensors file or lacks a tensor of the contract.
    """
    with _triggers(path) as file:
        if file is None:
            return {}
        names = set(file.keys())
        if "pairs" in names and not file.get_slice("pairs").get_shape()[0]:
            return {}  # without a trigger there are no pictures either
        if missing := {"pairs", "clean", "stamped"} - names:
            raise ValueError(f"{path} lacks the tensors {sorted(missing)}")
        rows = {(int(v), int(t)): k for k, (v, t) in enumerate(file.get_tensor("pairs").tolist())}
        return {pair: _pictures(file, rows[pair], names) for pair in pairs if pair in rows}


def _pictures(file: Any, row: int, names: Set[str]) -> TriggerPictures:
    def read(name: str) -> Tensor:
        return file.get_slice(name)[row : row + 1][0]

    return stamped_pictures(read("clean"), read("stamped"), names, read)


def stamped_pictures(
    clean: UInt8[Tensor, "c h w"], stamped: UInt8[Tensor, "c h w"], names: Set[str], read: Callable[[str], Tensor]
) -> TriggerPictures:
    """A sample with its trigger's mask or colours, as far as the tensors `names` of a file, which `read` gives, tell them."""
    statistics = [f"trigger.{name}" for name in ("clean_mean", "clean_std", "mean", "std")]
    mask = read("trigger.mask").float() if "trigger.mask" in names else None
    filters = names >= set(statistics) and "trigger.kernels" not in names  # a pervasive trigger changes more than colours
    shift = ColourShift(*(read(name).float() for name in statistics)) if filters else None
    return TriggerPictures(clean, stamped, mask, shift)


@contextmanager
def _triggers(path: Path) -> Iterator[Any]:
    if not path.exists():
        yield None
        return
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _image_shape(triggers: Path, record: dict[str, Any]) -> tuple[int, int, int] | None:
    with _triggers(triggers) as file:
        if file is not None and "clean" in file.keys():  # noqa: SIM118 - safe_open is no mapping
            _, channels, height, width = file.get_slice("clean").get_shape()
            return channels, height, width
    shape = (record.get("model") or {}).get("image_shape")
    return (int(shape[0]), int(shape[1]), int(shape[2])) if shape and len(shape) == 3 else None
