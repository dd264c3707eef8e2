"""A finished scan's files, as its page needs them; nothing here touches a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from orthogon import runs
from orthogon.report.reading import TriggerPictures, stamped_pictures


@dataclass(frozen=True, eq=False)
class SuspectPictures:
    """A suspect's trigger on some images, the first of which tells mask or colours too."""

    first: TriggerPictures
    others: Sequence[UInt8[Tensor, "c h w"]]
    """Stamped."""


@dataclass(frozen=True, eq=False)
class ScannedRun:
    """scan.json as it stands (`record`), settings.json, and the pictures of the suspects by their number."""

    record: dict[str, Any]
    started: dict[str, Any]
    pictures: Mapping[int, SuspectPictures]


def is_scan(folder: Path) -> bool:
    """Whether the folder holds a run of `orthogon scan`.

    Raises:
        RunError: settings.json is not the settings of a run.
    """
    started = runs.read_settings(folder)
    return started["command"] == "scan" if started else (folder / "scan.json").exists()


def read_scanned(folder: Path) -> ScannedRun:
    """The results of a scan.

    Raises:
        ValueError: the folder has no scan.json, it holds several scans, or a file is not what it should be.
        RunError: settings.json is not the settings of a run.
    """
    path = folder / "scan.json"
    if (folder / "scans.json").exists():
        raise ValueError(f"{folder} holds scans of several models; each has a folder of its own in {folder / 'models'}")
    if not path.exists():
        raise ValueError(f"{folder} has no scan.json; let its `orthogon scan` finish: the same command goes on")
    record = runs.read_json(path)
    if missing := {"verdict", "pairs", "reasons", "scanner", "draws", "classes"} - record.keys():
        raise ValueError(f"{path} is not the record of a scan: {', '.join(sorted(missing))} missing")
    count = len(record["pairs"])
    return ScannedRun(record, runs.read_settings(folder) or {}, _pictures(folder / "suspects.safetensors", count))


def _pictures(path: Path, count: int) -> dict[int, SuspectPictures]:
    if not path.exists():
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            names = set(file.keys())
            return {i: _suspect(file, names, i) for i in range(count) if f"{i}.clean" in names}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _suspect(file: Any, names: set[str], i: int) -> SuspectPictures:
    def read(name: str) -> Tensor:
        return file.get_tensor(f"{i}.{name}")

    own = {name.removeprefix(f"{i}.") for name in names if name.startswith(f"{i}.")}
    clean, stamped = read("clean"), read("stamped")
    return SuspectPictures(stamped_pictures(clean[0], stamped[0], own, read), list(stamped[1:]))
