from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from orthogon import runs
from orthogon.cli import measuring, parse
from orthogon.cli.measure import Measure
from orthogon.cli.words import words_of
from orthogon.data import open_images
from orthogon.protocols import PROTOCOLS

from .conftest import SIGNS
from .quick import QUICK

Command = Callable[..., tuple[int, str, str]]
Result = Callable[..., dict[str, Any]]
PROGRAM = [sys.executable, str(Path(__file__).with_name("quick.py"))]


def words(model: Path, *more: object) -> tuple[object, ...]:
    settings = ("--protocol", "screen", "--pairs", "0-1,2-0", "--samples", 30)
    return ("measure", "--model", model, "--data", SIGNS, *settings, *more)


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    from orthogon.cli import main

    folder = tmp_path_factory.mktemp("measured") / "run"
    assert main([str(word) for word in words(trained, "--out", folder)]) == 0
    return folder


def test_the_files_of_a_run(measured: Path, trained: Path) -> None:
    record = json.loads((measured / "distances.json").read_text())
    assert {"unit", "protocol", "family", "classes", "values", "asr", "outcomes", "spread"} <= record.keys()
    assert {"settings", "versions", "hashes", "seconds", "accuracy", "model", "data"} <= record.keys()
    assert record["values"][0][0] is None
    assert record["outcomes"][0][2] is None
    for victim, target in ((0, 1), (2, 0)):
        assert record["outcomes"][victim][target] == "found"
        assert record["values"][victim][target] > 0
        assert record["asr"][victim][target] >= 0.9 - 1e-6
    assert record["accuracy"] > 0.8
    assert record["settings"]["pairs"] == "0-1,2-0"
    assert record["settings"]["samples"] == 30
    assert record["settings"]["search"]["asr"] == 0.9
    assert record["hashes"]["model"] == runs.digest(trained)
    triggers = load_file(measured / "triggers.safetensors")
    assert sorted(triggers["pairs"].tolist()) == [[0, 1], [2, 0]]
    assert triggers["clean"].shape == triggers["stamped"].shape == (2, 3, 16, 16)
    assert triggers["trigger.mask"].shape == (2, 1, 16, 16)
    page = (measured / "report.html").read_text()
    assert "<svg" in page
    assert all(html.escape(name) in page for name in record["classes"])
    assert [event["kind"] for event in runs.read_events(measured)] == ["started", "pair", "pair", "finished"]


def test_the_finished_run_is_found_again_and_nothing_changes(measured: Path, trained: Path, result: Result) -> None:
    before = json.loads((measured / "distances.json").read_text())
    began = time.monotonic()
    data = result(*words(trained, "--out", measured))
    assert time.monotonic() - began < 30
    assert {key: data[key] for key in before} == before
    assert data["report"] == str(measured / "report.html")


def test_what_was_assumed_of_the_images_is_told(trained: Path, command: Command, quick: None) -> None:
    images = open_images(SIGNS)
    for row in range(60):
        folder = Path("images", f"sign {int(images.labels[row])}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[row].permute(1, 2, 0).numpy()).resize((20, 20)).save(folder / f"{row}.png")
    code, _, err = command(
        "measure", "--model", trained, "--data", "images", "--protocol", "screen", "--samples", 8, "--pairs", "0-1", "--force"
    )
    assert code == 0, err
    assert "images: folder images; resized to 16×16" in err
    assert "classes taken by position" in err
    assert err.index("by position") < err.index("clean accuracy")


def test_the_clean_accuracy_is_evaluated_once(
    measured: Path, trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated(*_: object, **__: object) -> None:
        pytest.fail("the clean accuracy was evaluated again")

    monkeypatch.setattr(measuring, "accuracy", evaluated)
    code, _, err = command(*words(trained, "--out", measured))
    assert code == 0, err
    kept, record = (json.loads((measured / name).read_text()) for name in ("accuracy.json", "distances.json"))
    assert f"clean accuracy {record['accuracy']:.2%} on 120 images" in err
    assert kept["accuracy"] == record["accuracy"]


def test_going_on_with_other_versions_is_told(measured: Path, trained: Path, command: Command) -> None:
    shutil.copytree(measured, "run")
    started = runs.read_json(Path("run/settings.json"))
    runs.write_json(Path("run/settings.json"), started | {"versions": started["versions"] | {"torch": "1.13"}})
    code, _, err = command(*words(trained, "--out", "run"))
    assert code == 0, err
    assert f'the run was begun otherwise, so that numbers may differ a little: torch: "1.13" -> "{torch.__version__}"' in err
    assert "begun otherwise" not in command(*words(trained, "--out", measured))[2]


def test_images_of_one_class_are_told(trained: Path, command: Command, quick: None) -> None:
    first = open_images(SIGNS).classes[0]
    for row in range(0, 60, 3):
        Path("images", first).mkdir(parents=True, exist_ok=True)
        Image.fromarray(open_images(SIGNS).pixels[row].permute(1, 2, 0).numpy()).save(f"images/{first}/{row}.png")
    line = ("--model", trained, "--data", "images", "--protocol", "screen", "--samples", 8, "--pairs", "0-1", "--force")
    code, _, err = command("measure", *line)
    assert code == 0, err
    assert f"all images are of the class {first}" in err


def test_other_pairs_are_another_run(measured: Path, trained: Path, command: Command) -> None:
    code, out, err = command("measure", "--model", trained, "--data", SIGNS, "--pairs", "1-0", "--out", measured)
    assert (code, out) == (4, "")
    assert 'pairs: "0-1,2-0" -> "1-0"' in err


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `screen` short where only the way through matters, not what is found."""
    monkeypatch.setitem(PROTOCOLS, "screen", QUICK)


@pytest.fixture(scope="module")
def uninterrupted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run finds that nothing interrupts; little memory makes it search pair by pair."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run([*PROGRAM, *pair_by_pair(trained), "--out", str(folder)], check=True)
    return json.loads((folder / "distances.json").read_text())


def pair_by_pair(model: Path) -> list[str]:
    settings = ["--protocol", "screen", "--samples", "12", "--pairs", "2-0,0-1,1-0,1-2", "--memory", "0.0001"]
    return ["measure", "--model", str(model), "--data", SIGNS, *settings]


def _heeds_interrupts() -> None:
    """A shell starts its background jobs deaf to Ctrl-C, and these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    trained: Path, uninterrupted: dict[str, Any], result: Result, quick: None, blow: signal.Signals, code: int
) -> None:
    line = [*pair_by_pair(trained), "--out", "run"]
    process = subprocess.Popen([*PROGRAM, *line], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=_heeds_interrupts)
    while process.poll() is None and not list(Path("run").glob("pairs/*.safetensors")):
        time.sleep(0.01)
    process.send_signal(blow)
    _, told = process.communicate()
    assert process.returncode == code, told.decode()
    kept = {path: path.stat().st_mtime_ns for path in Path("run/pairs").glob("*.safetensors")}
    assert 1 <= len(kept) < 4
    data = result(*line)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # no finished pair was measured again
    assert [e["kind"] for e in runs.read_events(Path("run"))].count("resumed") == 1
    assert data["outcomes"][2][0] == "found"
    for key in ("values", "asr", "outcomes", "spread"):
        assert data[key] == uninterrupted[key]


def test_json_stands_alone_on_the_real_standard_output(trained: Path, tmp_path: Path) -> None:
    line = [str(word) for word in words(trained, "--pairs", "2-0", "--out", tmp_path / "run", "--json")]
    done = subprocess.run([*PROGRAM, *line], capture_output=True, check=True)
    assert json.loads(done.stdout)["report"] == str(tmp_path / "run" / "report.html")


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


def test_a_model_near_chance_is_refused_without_force(guesser: Path, command: Command, quick: None) -> None:
    code, out, err = command(*words(guesser))
    assert (code, out) == (3, "")
    assert "normalization" in err
    assert "--force" in err
    code, _, err = command(*words(guesser))
    assert code == 3  # also where the accuracy is known already
    code, _, err = command(*words(guesser, "--force", "--pairs", "0-1", "--samples", 5))
    assert code == 0, err


@pytest.mark.parametrize("pairs", ["0-9", "0-0", "random:99", "0", "nonsense"])
def test_bad_pairs(trained: Path, command: Command, pairs: str) -> None:
    code, out, err = command("measure", "--model", trained, "--data", SIGNS, "--pairs", pairs)
    assert (code, out) == (2, "")
    assert "pair" in err
    assert not Path("runs").exists()


def test_a_class_with_too_few_samples_is_an_outcome_and_the_others_go_on(trained: Path, result: Result, quick: None) -> None:
    data = result(*words(trained, "--samples", 35, "--subset", "first:104"))  # signs come in turn: 35, 35 and 34
    assert data["outcomes"][2][0] == "too few samples"
    assert data["values"][2][0] is None
    assert data["outcomes"][0][1] in ("found", "asr not reached")


def test_no_class_with_enough_samples(trained: Path, command: Command) -> None:
    code, _, error = command(*words(trained, "--samples", 41))
    assert code == 2
    assert "fewer than 41 images (the largest has 40)" in error
    assert "--samples 40" in error


def test_draws_of_samples_and_every_class_to_one(trained: Path, result: Result, quick: None) -> None:
    data = result(*words(trained, "--pairs", "2-0,*-0", "--samples", 8, "--draws", 2))
    assert data["spread"][2][0] > 0
    (universal,) = data["universal"]
    assert (universal["target"], universal["outcome"]) == (0, "found")
    assert "over the draws of samples" in Path(data["report"]).read_text()
    assert [data["settings"][name] for name in ("samples", "draws")] == [8, 2]
    assert load_file(Path(data["run"]) / "triggers.safetensors")["pairs"].tolist() == [[2, 0], [-1, 0]]


def test_universal_triggers_are_shown_and_drawn(trained: Path, command: Command, quick: None) -> None:
    code, out, err = command(*words(trained, "--pairs", "universal", "--samples", 8, "--out", "run"))
    assert code == 0, err
    assert "Smallest universal triggers" in out
    assert "nan" not in out
    page = Path("run/report.html").read_text()
    assert "The smallest universal trigger makes any other class" in page
    assert "<img" in page


def test_pairs_that_were_all_not_found_are_shown_all_the_same(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopeless = replace(QUICK, settings=replace(QUICK.settings, stages=(replace(QUICK.settings.stages[0], steps=1),), weight=1e6))
    monkeypatch.setitem(PROTOCOLS, "screen", hopeless)
    code, out, err = command(*words(trained, "--pairs", "0-1", "--samples", 8))
    assert code == 0, err
    assert "0 of 1 pairs, 1 without a distance" in out
    assert "nan" not in out


def test_grey_images_of_another_size_are_measured(trained: Path, result: Result, quick: None) -> None:
    images = open_images(SIGNS)
    for row in range(24):
        folder = Path("images", images.classes[int(images.labels[row])])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[row].permute(1, 2, 0).numpy()).convert("L").resize((20, 30)).save(folder / f"{row}.png")
    line = ("measure", "--model", trained, "--data", "images", "--protocol", "screen", "--samples", 8, "--pairs", "0-1")
    assert result(*line, "--force")["outcomes"][0][1] is not None


def nan_weights(model: Path) -> list[object]:
    weights = {n: t.fill_(float("nan")) if t.is_floating_point() else t for n, t in load_file(model).items()}
    save_file(weights, "nan.safetensors")
    Path("nan.json").write_text(model.with_suffix(".json").read_text())
    return ["--model", "nan.safetensors", "--data", SIGNS]


def wrong_class_count(model: Path) -> list[object]:
    return ["--model", model, "--data", "signs:classes=4,size=16,per_class=40"]


def file_in_the_way(model: Path) -> list[object]:
    Path("run").write_text("")
    return ["--model", model, "--data", SIGNS, "--out", "run"]


def no_samples(model: Path) -> list[object]:
    return ["--model", model, "--data", SIGNS, "--protocol", "neural-cleanse", "--samples", "0"]


def no_draws(model: Path) -> list[object]:
    return ["--model", model, "--data", SIGNS, "--draws", "0"]


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (nan_weights, "NaN"),
        (wrong_class_count, "4 classes"),
        (file_in_the_way, "cannot write"),
        (no_samples, "--samples must be at least 1"),
        (no_draws, "--draws must be at least 1"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    trained: Path, command: Command, prepare: Callable[[Path], list[object]], told: str
) -> None:
    code, out, err = command("measure", *prepare(trained))
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_the_command_in_the_report_is_the_one_that_was_given(measured: Path) -> None:
    found = re.search(r"<pre>(.*?)</pre>", (measured / "report.html").read_text(), re.DOTALL)
    assert found
    program, *line = shlex.split(html.unescape(found[1]))
    assert program == "orthogon"
    parsed = parse(line)
    assert isinstance(parsed, Measure)
    settings = json.loads((measured / "settings.json").read_text())["settings"]
    again = words_of(parsed.model, parsed.images) | {name: getattr(parsed, name) for name in settings if hasattr(parsed, name)}
    again["model"] = parsed.model.model
    assert again == settings


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


def test_a_model_whose_card_was_changed_is_another(trained: Path, tmp_path: Path, command: Command) -> None:
    model, card = tmp_path / "net.safetensors", json.loads(trained.with_suffix(".json").read_text())
    few = ("--pairs", "2-0", "--samples", "8")
    shutil.copy(trained, model)
    model.with_suffix(".json").write_text(json.dumps({**card, "normalisation": {"mean": [90.0] * 3, "std": [0.2] * 3}}))
    code, _, err = command(*words(model, *few))
    assert code == 3, err  # near chance
    model.with_suffix(".json").write_text(json.dumps(card))
    code, _, err = command(*words(model, *few, "--out", "run"))
    assert code == 0, err
    assert command(*words(model, *few))[0] == 0  # the mended card counts, not the accuracy that was measured before
    model.with_suffix(".json").write_text(json.dumps({**card, "normalisation": {"mean": [0.5] * 3, "std": [0.3] * 3}}))
    code, _, err = command(*words(model, *few, "--out", "run"))
    assert code == 4
    assert "read_as.normalization" in err


def test_many_classes_without_images_do_not_thin_out_the_accuracy_check(
    trained: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "CHECKED", 12)
    code, _, err = command(*words(trained, "--pairs", "0-1", "--subset", "first:40", "--samples", "4", "--force", "--out", "run"))
    assert code == 0, err
    told = re.search(r"clean accuracy [\d.]+% on (\d+) images", err)
    assert told is not None
    assert int(told[1]) >= 12
