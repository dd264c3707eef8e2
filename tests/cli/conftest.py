from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orthogon.cli import main

SIGNS = "signs:classes=3,size=16,per_class=40"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model.safetensors of a small training by the command line."""
    out = tmp_path_factory.mktemp("trained") / "run"
    words = ["--data", SIGNS, "--arch", "resnet20", "--epochs", "12", "--batch", "20", "--learning-rate", "0.05"]
    assert main(["train", *words, "--out", str(out)]) == 0
    return out / "model.safetensors"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in an empty folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ORTHOGON_DEBUG", raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def result(command: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    """Run a command with --json; returns what stands on standard output, which must be one JSON object and no more."""

    def run(*words: object) -> dict[str, Any]:
        code, out, err = command(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return run
