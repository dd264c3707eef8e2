from __future__ import annotations

import json
from pathlib import Path

import pytest

from orthogon.zoo.trojai import read_model, read_set


def folder(place: Path, truth: str | None, config: dict[str, object] | None) -> Path:
    place.mkdir(parents=True)
    (place / "model.pt").write_bytes(b"network")
    if truth is not None:
        (place / "ground_truth.csv").write_text(truth)
    if config is not None:
        (place / "config.json").write_text(json.dumps(config))
    return place


@pytest.mark.parametrize(
    ("truth", "config", "poisoned"),
    [
        ("0\n", None, False),
        ("1", {"POISONED": True}, True),
        ("True,1\n", None, True),
        (None, {"poisoned": False}, False),
        (None, {"POISONED": True, "NUMBER_CLASSES": 5}, True),
        (None, {"number_classes": 5}, None),
    ],
)
def test_the_truth_of_a_model(tmp_path: Path, truth: str | None, config: dict[str, object] | None, poisoned: bool | None) -> None:
    model = read_model(folder(tmp_path / "id-00000007", truth, config))
    assert (model.name, model.poisoned) == ("id-00000007", poisoned)
    assert model.model == tmp_path / "id-00000007" / "model.pt"
    assert set(model.config) == {key.lower() for key in config or {}}


def test_contradictions_and_nonsense_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mend one of them"):
        read_model(folder(tmp_path / "a", "0", {"POISONED": True}))
    with pytest.raises(ValueError, match="should say 0"):
        read_model(folder(tmp_path / "b", "maybe", None))


@pytest.mark.parametrize("inner", ["", "models"])
def test_a_set_is_found_in_its_folder_or_below(tmp_path: Path, inner: str) -> None:
    for number in (10, 2):
        folder(tmp_path / inner / f"id-{number:08d}", str(number % 2), None)
    (tmp_path / inner / "notes").mkdir()
    assert [model.name for model in read_set(tmp_path)] == ["id-00000002", "id-00000010"]


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="holds no TrojAI models"):
            read_set(place)
