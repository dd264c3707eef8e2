from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import ShuffleNetV2

from orthogon import load_classifier, runs
from orthogon.cli import benching_false_positives, main, parse
from orthogon.cli.bench import FalsePositiveBench
from orthogon.cli.scanning_models import named_models
from orthogon.cli.scanning_trojai import answer, monotone
from orthogon.cli.trojai import TrojAI
from orthogon.methods import METHODS
from orthogon.recipe import TrainingSettings
from orthogon.zoo import like_trojai, making_trojai
from orthogon.zoo.like_trojai import Network
from orthogon.zoo.making_trojai import Outcome
from orthogon.zoo.trojai import read_set

Command = Callable[..., tuple[int, str, str]]
Finds = Callable[..., dict[str, Any]]
MARGINS = ("--scanner", "mm-bd", "--set", "starts=1", "--set", "steps=1")
NETWORK = Network(
    lambda classes: ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], num_classes=classes),
    TrainingSettings(epochs=1, batch=16, learning_rate=0.05, precision="float32"),
)
QUICK = replace(METHODS["pairwise"], steps=2, arms_per_pick=1, first_inversion=1, inversion=1, batch=8, stamped=8)


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Models that train in a moment, and are taken whatever they have learned."""
    for module in (like_trojai, making_trojai):
        patch.setattr(module, "NETWORKS", {"tiny": NETWORK})
    for name, value in (("_TRAINING", 8), ("_VALIDATION", 2), ("_JUDGED", 2), ("EXAMPLES", 5)):
        patch.setattr(making_trojai, name, value)
    hardening = replace(METHODS["adversarial"], steps=1, batch=8, adversary_steps=1, max_accuracy_loss=1.0)
    patch.setattr(like_trojai, "adversarial", lambda bound: hardening)
    patch.setattr(Outcome, "shortfall", None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two models, made by the command line."""
    folder = tmp_path_factory.mktemp("like") / "set"
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        assert main(["zoo", "build", "--like", "trojai", "--models", "2", "--seed", "3", "--out", str(folder)]) == 0
    return folder


def test_a_set_is_half_clean_and_can_be_added_to(
    models: Path, tmp_path: Path, result: Finds, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sorted(bool(model.poisoned) for model in read_set(models)) == [False, True]
    assert (models / "METADATA.csv").read_text().count("\n") == 3
    copy = shutil.copytree(models, tmp_path / "copy")
    make_quick(monkeypatch)
    known = runs.digest(copy / "id-00000000" / "model.pt")
    words = ("zoo", "build", "--like", "trojai", "--seed", 3, "--out", copy, "--models")
    data = result(*words, 3)
    assert [row["model_name"] for row in data["models"]] == ["id-00000000", "id-00000001", "id-00000002"]
    assert runs.digest(copy / "id-00000000" / "model.pt") == known
    assert not list((copy / "unfinished").iterdir())
    assert main([str(word) for word in (*words[:5], 4, *words[6:], 3)]) == 4  # another seed is another set


def test_a_model_that_misses_is_tried_again_and_then_left_out(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_quick(monkeypatch)
    monkeypatch.setattr(Outcome, "shortfall", "it is no good")
    words = ("zoo", "build", "--like", "trojai", "--models", 1, "--out", tmp_path / "set")
    code, out, err = command(*words)
    assert code == 2
    assert err.count("it is no good; trained anew") == 2
    assert "id-00000000 is left out: it is no good" in out
    assert [event["attempt"] for event in runs.read_events(tmp_path / "set") if event["kind"] == "model"] == [0, 1, 2]
    code, out, err = command(*words)  # and not tried again
    assert code == 2
    assert "trained anew" not in err
    assert "id-00000000 is left out" in out


@pytest.mark.parametrize("words", [("signs",), ("--ship",), ("--models", "0")])
def test_words_that_do_not_go_with_a_set(command: Command, words: tuple[str, ...]) -> None:
    code, _, err = command("zoo", "build", "--like", "trojai", *words)
    assert code == 2
    assert "orthogon zoo: --" in err


def test_the_container_interface_writes_one_number(models: Path, command: Command, tmp_path: Path) -> None:
    model = models / "id-00000000"
    paths = ("--model_filepath", model / "model.pt", "--examples_dirpath", model / "clean_example_data")
    where = (f"--result_filepath={tmp_path}/out/result.txt", "--scratch_dirpath", tmp_path / "scratch")
    code, out, err = command("trojai", *paths, *where, *MARGINS, "--json")
    assert code == 0, err
    number = float((tmp_path / "out" / "result.txt").read_text())
    data = json.loads(out)
    assert number == pytest.approx(data["number"], abs=1e-6)
    assert 0 < number < 1
    assert number == pytest.approx(monotone(data["score"], data["threshold"]), abs=1e-6)
    assert "take care: the number is no probability" in err
    assert not (model / "scan.json").exists()
    copy = shutil.copytree(model / "clean_example_data", tmp_path / "examples")
    others = (("--set", "steps=2"), ("--seed", 1), ("--examples_dirpath", copy))
    for count, more in enumerate(((), *others), 1):  # the same scan is read again, another has a folder of its own
        code, _, err = command("trojai", *paths, *where, *MARGINS, *more)
        assert code == 0, err
        assert ("is finished already" in err) == (more == ())
        assert len(list((tmp_path / "scratch").glob("*/scan.json"))) == count
    (copy / "class_0_example_4.png").unlink()
    code, _, err = command("trojai", *paths, *where, *MARGINS, *others[-1])
    assert code == 0, err
    assert len(list((tmp_path / "scratch").glob("*/scan.json"))) == 5


def test_the_container_refuses_a_strange_network_without_an_answer(models: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"nonsense")
    paths = ("--model_filepath", tmp_path / "model.pt", "--examples_dirpath", models / "id-00000000" / "clean_example_data")
    code, _, err = command("trojai", *paths, "--result_filepath", tmp_path / "r", "--scratch_dirpath", tmp_path / "s", *MARGINS)
    assert code == 2
    assert "model.pt" in err
    assert not (tmp_path / "r").exists()


def test_words_of_the_container_have_underscores_or_hyphens() -> None:
    words = ["model_filepath=m", "result-filepath=r", "scratch_dirpath=s", "examples-dirpath=e"]
    parsed = parse(["trojai", *(f"--{word}" for word in words)])
    assert isinstance(parsed, TrojAI)
    assert (parsed.model_filepath, parsed.examples_dirpath) == (Path("m"), Path("e"))


def test_a_calibrated_probability_is_the_answer_and_no_score_is_a_half() -> None:
    record = {"probability": 0.7, "score": 9.0, "threshold": 2.0, "reasons": ["why"]}
    assert answer(record) == (0.7, "the number is the calibrated probability, kept within 0.01 and 0.99")
    assert [answer(record | {"probability": certain})[0] for certain in (0.0, 1.0)] == pytest.approx([0.01, 0.99])
    assert answer(record | {"probability": None, "score": None})[0] == 0.5
    assert answer(record | {"probability": None, "score": 2.0})[0] == 0.5


@given(
    scores=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
    threshold=st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.floats(-1e3, -1e-3)),
)
def test_the_number_never_falls_as_the_score_grows(scores: tuple[float, float], threshold: float) -> None:
    low, high = (monotone(score, threshold) for score in sorted(scores))
    assert 0.01 - 1e-9 <= low <= high <= 0.99
    assert monotone(threshold, threshold) == 0.5
    assert math.isclose(monotone(1.1, 1.0), 1 / (1 + math.exp(-0.4)))


def test_a_set_is_scanned_by_its_own_pictures(models: Path, command: Command, tmp_path: Path) -> None:
    model = models / "id-00000001" / "model.pt"
    code, _, err = command("scan", "--model", model, *MARGINS, "--out", tmp_path / "one", "--force")
    assert code in (0, 10, 11), err
    record = json.loads((tmp_path / "one" / "scan.json").read_text())
    assert record["data"].startswith(f"TrojAI examples {models / 'id-00000001' / 'clean_example_data'}")
    classes = len(load_classifier(str(model)).classes)
    assert record["accuracy_images"] == 5 * classes
    assert named_models([str(models)]).models == tuple(str(models / f"id-{number:08d}" / "model.pt") for number in range(2))


def test_without_pictures_anywhere_data_is_asked_for(command: Command, models: Path, tmp_path: Path) -> None:
    shutil.copy(models / "id-00000000" / "model.pt", tmp_path / "alone.pt")
    code, _, err = command("scan", "--model", tmp_path / "alone.pt")
    assert code == 2
    assert "give --data D" in err


def test_false_positives_before_and_after(
    models: Path, result: Finds, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(METHODS, "moth", QUICK)
    make_quick(monkeypatch)
    words = (
        "bench",
        "false-positives",
        "--models",
        models,
        *MARGINS,
        "--set",
        "significance=0.999999",
        "--out",
        tmp_path / "run",
    )
    data = result(*words, "--force")
    rows = {row["model"]: row for row in data["models"]}
    assert {row["before"] for row in rows.values()} == {"backdoored"}  # by a threshold that every score is above
    assert data["counts"]["true_positives"] == {"before": 1, "after": 1}
    assert data["counts"]["false_positives"]["before"] == 1
    assert data["counts"]["waiting"] == 0
    assert data["published"]["before"] == 32
    for model in read_set(models):
        row = rows[model.name]
        assert row["reason"] is None
        assert row["after"] is not None
        assert (row["success_before"] is None) == (not model.poisoned)
        assert 0 <= row["accuracy_after"] <= 1
        assert row["hardening"]["images"] == 8 * len(model.config["class_names"])
        assert row["hardened_on"] == "known training pictures"
        assert (tmp_path / "run" / row["folder"] / "hardened.safetensors").is_file()
    assert "False alarms" in (tmp_path / "run" / "false-positives.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").rglob("*.json")}
    again = result(*words, "--force")
    assert again["counts"] == data["counts"]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    code, out, _ = command("bench", "list")
    assert code == 0
    assert "false-positives" in out


@pytest.fixture
def strange(models: Path, tmp_path: Path) -> Path:
    """The clean model of the set, in a set of its own, as a stranger's: nothing tells what it was trained on."""
    (clean,) = (model for model in read_set(models) if not model.poisoned)
    folder = shutil.copytree(clean.folder, tmp_path / "strange" / "id-00000009")
    (folder / "config.json").write_text(json.dumps({"poisoned": False, "number_classes": len(clean.config["class_names"])}))
    return folder


def subject_of(folder: Path, *more: str) -> Any:
    words = parse(["bench", "false-positives", "--models", str(folder.parent), *more])
    assert isinstance(words, FalsePositiveBench)
    return benching_false_positives._Subject(read_set(folder.parent)[0], words)


def test_nothing_that_a_model_is_hardened_on_judges_it(strange: Path) -> None:
    subject = subject_of(strange)
    examples, pictures = subject.opened[1], subject.pictures
    parts = (pictures.training, pictures.validation, pictures.judging)
    pixels = torch.cat([part.pixels for part in parts])
    assert len(pixels.flatten(1).unique(dim=0)) == len(pixels) == len(examples)
    assert pictures.scanned is pictures.judging
    assert min(pictures.training.counts()) > 0
    (strange / "clean_example_data" / "class_0_example_4.png").unlink()
    assert subject_of(strange).pictures.which == "example pictures"
    (strange / "clean_example_data" / "class_0_example_3.png").unlink()
    with pytest.raises(ValueError, match=r"a class has 3 example pictures, 4 are needed .*--data"):
        _ = subject_of(strange).pictures


def test_data_come_before_pictures_that_are_known(models: Path, strange: Path) -> None:
    pictures = subject_of(models / "id-00000000", "--data", str(strange)).pictures
    assert pictures.which == "--data"
    assert "strange" in pictures.training.source
    assert "strange" not in pictures.judging.source


def test_a_failed_hardening_is_told_and_other_pictures_are_another_scan(
    strange: Path, result: Finds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def harden(*words: Any, **more: Any) -> None:
        raise ValueError("the loss stayed NaN")

    monkeypatch.setattr(benching_false_positives, "harden", harden)
    words = ("bench", "false-positives", "--models", strange.parent, *MARGINS, "--set", "significance=0.999999")
    words = (*words, "--force", "--out", tmp_path / "run")
    data = result(*words)
    (row,) = data["models"]
    assert (row["before"], row["after"], row["reason"]) == ("backdoored", None, "the loss stayed NaN")
    assert (data["counts"]["failed"], data["counts"]["waiting"]) == (1, 0)
    assert row["hardened_on"] == "example pictures"
    assert row["data"] == row["judged_on"]
    assert "[fraction:0.5]" in row["data"]
    assert "id-00000009: the loss stayed NaN" in (tmp_path / "run" / "false-positives.md").read_text()
    (strange / "clean_example_data" / "class_0_example_4.png").unlink()
    (again,) = result(*words)["models"]
    assert again["folder"] != row["folder"]
    assert again["inputs"]["model"] == row["inputs"]["model"]


def test_a_set_without_models_is_told(command: Command, tmp_path: Path) -> None:
    code, _, err = command("bench", "false-positives", "--models", tmp_path)
    assert code == 2
    assert "holds no TrojAI models" in err
