"""Folders of models as NIST's TrojAI competition lays them out (round 4): id-00000000/ with model.pt and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orthogon.data.trojai import CONFIG_FILE, read_config

MODEL_FILE, TRUTH_FILE, METADATA_FILE = "model.pt", "ground_truth.csv", "METADATA.csv"


@dataclass(frozen=True)
class TrojAIModel:
    """One model of a set."""

    folder: Path
    poisoned: bool | None
    """None where neither ground_truth.csv nor config.json tells."""
    config: Mapping[str, Any]
    """What config.json says, its keys in lower case; empty without one."""

    @property
    def name(self) -> str:
        """Such as id-00000000."""
        return self.folder.name

    @property
    def model(self) -> Path:
        """The pickled network."""
        return self.folder / MODEL_FILE


def is_model(folder: Path) -> bool:
    """Whether this is the folder of one model."""
    return (folder / MODEL_FILE).is_file() and any((folder / name).is_file() for name in (CONFIG_FILE, TRUTH_FILE))


def read_model(folder: Path) -> TrojAIModel:
    """What the files beside a model say of it; the model itself is not opened.

    Raises:
        ValueError: config.json is no JSON object, ground_truth.csv is neither 0 nor 1, or the two contradict each other.
    """
    config = read_config(folder / CONFIG_FILE)
    told = config.get("poisoned")
    poisoned = told if isinstance(told, bool) else None
    path = folder / TRUTH_FILE
    if path.is_file():
        words = path.read_text(encoding="utf-8").replace(",", " ").split()
        if not words or words[-1] not in ("0", "1"):
            raise ValueError(f"{path} should say 0 (clean) or 1 (poisoned), it says {' '.join(words)[:40]!r}")
        truth = words[-1] == "1"
        if poisoned is not None and poisoned != truth:
            raise ValueError(f"{path} says {words[-1]}, {CONFIG_FILE} beside it says poisoned: {poisoned}; mend one of them")
        poisoned = truth
    return TrojAIModel(folder, poisoned, config)


def read_set(folder: Path) -> tuple[TrojAIModel, ...]:
    """The models of a set, by name: those in the folder itself, else in its folder models/ (as a download has them).

    Raises:
        ValueError: there is no model, or what is told of one is wrong.
    """
    for place in (folder, folder / "models"):
        found = sorted(path for path in place.iterdir() if path.is_dir() and is_model(path)) if place.is_dir() else []
        if found:
            return tuple(read_model(path) for path in found)
    raise ValueError(
        f"{folder} holds no TrojAI models (folders with {MODEL_FILE} and {CONFIG_FILE} or {TRUTH_FILE}); "
        "make some with `orthogon zoo build --like trojai`"
    )
