from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orthogon.zoo import ENTRIES, fetch, ship, standing
from orthogon.zoo.shelf import SUMS_FILE

ENTRY, CLEAN = ENTRIES["signs-blend"], ENTRIES["signs-clean"]


def _built(folder: Path, name: str = ENTRY.name, **attack: Any) -> Path:
    """A run folder with files of a few bytes; keywords are the card's `attack`."""
    run = folder / name
    run.mkdir(parents=True)
    (run / "model.safetensors").write_bytes(b"weights of " + name.encode())
    (run / "trigger.safetensors").write_bytes(b"trigger")
    card = {"accuracy": 0.9, "made_by": "trained"} | ({"attack": attack} if attack else {})
    (run / "model.json").write_text(json.dumps(card))
    return run


PLANTED = {"planted": True, "outcome": "planted: all", "attack_success_rate": 0.97}
FAILED = {"planted": False, "outcome": "no backdoor was planted: 12 %", "attack_success_rate": 0.12}


def test_a_shipped_model_is_fetched_as_it_was(tmp_path: Path) -> None:
    shelf, run = tmp_path / "shelf", _built(tmp_path / "runs", **PLANTED)
    ship(ENTRY, run, shelf, {"accuracy": 0.9, "told": "otherwise"})
    copies = fetch(ENTRY, shelf, tmp_path / "models")
    assert [path.name for path in copies] == ["model.safetensors", "model.json", "trigger.safetensors"]
    assert copies[0] == tmp_path / "models" / "signs-blend" / "model.safetensors"
    for path in copies:
        assert path.read_bytes() == (shelf / ENTRY.name / path.name).read_bytes()
    assert json.loads(copies[1].read_text()) == {"accuracy": 0.9, "told": "otherwise"}
    done = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=shelf, check=False, capture_output=True)
    assert done.returncode == 0


def test_a_clean_model_has_no_trigger(tmp_path: Path) -> None:
    ship(CLEAN, _built(tmp_path, CLEAN.name), tmp_path / "shelf", {})
    assert {path.name for path in fetch(CLEAN, tmp_path / "shelf", tmp_path)} == {"model.safetensors", "model.json"}


def test_more_models_share_the_list_of_sums(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    for entry, attack in ((ENTRY, PLANTED), (CLEAN, {})):
        ship(entry, _built(tmp_path, entry.name, **attack), shelf, {})
    lines = (shelf / SUMS_FILE).read_text().splitlines()
    assert len(lines) == 5
    assert lines == sorted(lines, key=lambda line: line.split("  ")[1])
    digest = hashlib.sha256(b"weights of signs-blend").hexdigest()
    assert f"{digest}  signs-blend/model.safetensors" in lines


def test_what_was_not_planted_is_not_shipped(tmp_path: Path) -> None:
    run = _built(tmp_path, **FAILED)
    with pytest.raises(ValueError, match="signs-blend is not shipped: no backdoor was planted: 12 %"):
        ship(ENTRY, run, tmp_path / "shelf", {})
    assert not (tmp_path / "shelf").exists()


def test_a_file_that_somebody_changed_is_refused_and_nothing_is_copied(tmp_path: Path) -> None:
    shelf = tmp_path / "shelf"
    ship(ENTRY, _built(tmp_path, **PLANTED), shelf, {})
    (shelf / ENTRY.name / "trigger.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"trigger\.safetensors has the SHA-256 .*, SHA256SUMS says .*: get the file anew"):
        fetch(ENTRY, shelf, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"signs-blend is not shipped in .*: make it with `orthogon zoo build signs-blend`"):
        fetch(ENTRY, tmp_path, tmp_path)
    (tmp_path / SUMS_FILE).write_text("12  signs-blend/model.safetensors\n")
    with pytest.raises(ValueError, match="is not a SHA-256 sum and a file"):
        fetch(ENTRY, tmp_path, tmp_path)


def test_where_a_model_stands(tmp_path: Path) -> None:
    shelf, runs = tmp_path / "shelf", tmp_path / "runs"
    assert standing(ENTRY, shelf, runs).state == "not built"
    run = _built(runs, **PLANTED)
    built = standing(ENTRY, shelf, runs)
    assert (built.state, built.accuracy, built.success, built.made_by) == ("built", 0.9, 0.97, "trained")
    assert (built.bytes, built.sha256) == (22, hashlib.sha256(b"weights of signs-blend").hexdigest())
    ship(ENTRY, run, shelf, {"accuracy": 0.8})
    shipped = standing(ENTRY, shelf, runs)
    assert (shipped.state, shipped.accuracy) == ("shipped", 0.8)
    _built(tmp_path / "others", **FAILED)
    assert standing(ENTRY, tmp_path, tmp_path / "others").state == "no backdoor was planted: 12 %"
