from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon import runs
from orthogon.cli import measuring

from .conftest import SIGNS

Command = Callable[..., tuple[int, str, str]]
Result = Callable[..., dict[str, Any]]


def words(model: Path, *more: object) -> tuple[object, ...]:
    return ("measure", "--model", model, "--data", SIGNS, "--protocol", "screen", "--pairs", "0-1,2-0", *more)


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    from orthogon.cli import main

    folder = tmp_path_factory.mktemp("measured") / "run"
    assert main([str(word) for word in words(trained, "--out", folder)]) == 0
    return folder


def test_the_files_of_a_run(measured: Path) -> None:
    record = json.loads((measured / "distances.json").read_text())
    assert {"unit", "protocol", "family", "classes", "values", "asr", "outcomes", "spread"} <= record.keys()
    assert {"settings", "versions", "hashes", "seconds", "accuracy", "model", "data"} <= record.keys()
    assert record["values"][0][0] is None
    assert record["outcomes"][0][2] is None
    for victim, target in ((0, 1), (2, 0)):
        assert record["outcomes"][victim][target] == "found"
        assert record["values"][victim][target] > 0
        assert record["asr"][victim][target] >= 0.9
    assert record["accuracy"] > 0.8
    assert record["settings"]["pairs"] == "0-1,2-0"
    triggers = load_file(measured / "triggers.safetensors")
    assert sorted(triggers["pairs"].tolist()) == [[0, 1], [2, 0]]
    assert triggers["clean"].shape == triggers["stamped"].shape == (2, 3, 16, 16)
    assert triggers["trigger.mask"].shape == (2, 1, 16, 16)
    assert "<svg" in (measured / "report.html").read_text()
    assert [event["kind"] for event in runs.read_events(measured)] == ["started", "pair", "pair", "finished"]


def test_the_finished_run_is_found_again_and_nothing_changes(measured: Path, trained: Path, result: Result) -> None:
    before = json.loads((measured / "distances.json").read_text())
    began = time.monotonic()
    data = result(*words(trained, "--out", measured))
    assert time.monotonic() - began < 30
    assert {key: data[key] for key in before} == before
    assert data["report"] == str(measured / "report.html")


def test_other_pairs_are_another_run(measured: Path, trained: Path, command: Command) -> None:
    code, out, err = command("measure", "--model", trained, "--data", SIGNS, "--pairs", "1-0", "--out", measured)
    assert (code, out) == (4, "")
    assert 'pairs: "0-1,2-0" -> "1-0"' in err


def test_ctrl_c_leaves_a_run_that_goes_on(
    trained: Path, measured: Path, command: Command, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = measuring.write_inversion

    def interrupt(path: Path, inversion: Any) -> None:
        write(path, inversion)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "write_inversion", interrupt)
        code, out, err = command(*words(trained, "--out", "run"))
    assert (code, out) == (130, "")
    assert "orthogon measure" in err
    assert len(list(Path("run/pairs").iterdir())) == 1
    again = result(*words(trained, "--out", "run"))
    assert "resumed" in [event["kind"] for event in runs.read_events(Path("run"))]
    for key in ("values", "asr", "outcomes"):
        assert again[key] == json.loads((measured / "distances.json").read_text())[key]


def test_kill_9_leaves_a_run_that_goes_on(trained: Path, result: Result) -> None:
    """All pairs in one process are killed after the first is finished; the rest are measured by another process."""
    line = ["measure", "--model", str(trained), "--data", SIGNS, "--protocol", "screen", "--out", "run"]
    code = "import sys; from orthogon.cli import main; sys.exit(main(sys.argv[1:]))"
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", code, *line], stdout=nowhere, stderr=nowhere)
    while process.poll() is None and not list(Path("run/pairs").glob("*.safetensors")):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(Path("run/pairs").glob("*.safetensors")))
    assert kept > 0
    data = result(*line)
    outcomes = [outcome for row in data["outcomes"] for outcome in row if outcome]
    assert len(outcomes) == 6
    told = [(e["victim"], e["target"]) for e in runs.read_events(Path("run")) if e["kind"] == "pair"]
    assert len(told) <= 6
    assert len(set(told)) == len(told)  # no pair was measured twice


@pytest.fixture
def guesser(trained: Path, tmp_path: Path) -> Path:
    """The trained network with random weights."""
    generator = torch.Generator().manual_seed(0)
    weights = load_file(trained)
    weights["fc.weight" if "fc.weight" in weights else next(n for n in reversed(weights) if weights[n].ndim == 2)] *= -1
    for name, tensor in weights.items():
        if tensor.ndim == 4:
            weights[name] = torch.randn(tensor.shape, generator=generator) * 0.01
    path = tmp_path / "guesser.safetensors"
    save_file(weights, path)
    path.with_suffix(".json").write_text(trained.with_suffix(".json").read_text())
    return path


def test_a_model_near_chance_is_refused_without_force(guesser: Path, command: Command) -> None:
    code, out, err = command(*words(guesser))
    assert (code, out) == (3, "")
    assert "normalization" in err
    assert "--force" in err
    code, _, err = command(*words(guesser, "--force"))
    assert code == 0, err


@pytest.mark.parametrize("pairs", ["0-9", "0-0", "random:99", "0", "nonsense"])
def test_bad_pairs(trained: Path, command: Command, pairs: str) -> None:
    code, out, err = command("measure", "--model", trained, "--data", SIGNS, "--pairs", pairs)
    assert (code, out) == (2, "")
    assert "pair" in err
    assert not Path("runs").exists()


def test_an_empty_class_is_an_outcome_and_the_others_go_on(trained: Path, result: Result) -> None:
    data = result(*words(trained, "--subset", "first:2"))  # signs come class by class in turn: class 2 has none
    assert data["outcomes"][2][0] == "too few samples"


def test_report_card_and_compare(measured: Path, command: Command, result: Result) -> None:
    page = measured / "report.html"
    page.unlink()
    code, out, _ = command("report", measured)
    assert (code, out.strip()) == (0, str(page))
    assert page.exists()
    code, out, _ = command("card", measured)
    assert code == 0
    assert out.startswith("#")
    assert result("card", measured)["protocol"] == "screen"
    data = result("compare", measured, measured)
    assert data["increase"] == 0
    assert Path(data["page"]).read_text().lstrip().lower().startswith("<!doctype html")
