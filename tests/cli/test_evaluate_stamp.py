from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon.data import open_images
from orthogon.models import load_classifier

from .conftest import SIGNS

Command = Callable[..., tuple[int, str, str]]
LINE = "x[2:8, 2:8] = [1, 0, 0]"


def test_a_line_is_judged_as_by_hand(trained: Path, result: Callable[..., dict[str, Any]]) -> None:
    data = result("evaluate", "--model", trained, "--data", SIGNS, "--stamp", LINE, "--target", "1")
    classifier = load_classifier(str(trained))
    images = open_images(SIGNS, classes=classifier.classes)
    pixels = images.floats()
    pixels[:, :, 2:8, 2:8] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    others = images.labels != 1
    with torch.no_grad():
        predicted = classifier(pixels)[others].argmax(1)
    assert data["stamped"]["attack_success_rate"] == pytest.approx(float((predicted == 1).float().mean()))
    assert data["stamped"]["robust_accuracy"] == pytest.approx(float((predicted == images.labels[others]).float().mean()))
    assert (data["stamped"]["target"], data["stamped"]["victim"]) == (classifier.classes[1], None)
    stored = json.loads((Path(data["run"]) / "evaluation.json").read_text())
    assert stored["stamped"] == data["stamped"]


def test_one_victim_and_for_people(trained: Path, command: Command) -> None:
    words = ("evaluate", "--model", trained, "--data", SIGNS, "--stamp", LINE, "--target", "1", "--victim", "2")
    code, out, err = command(*words, "--out", "run")
    assert code == 0, err
    assert "attack success rate " in out
    assert "of 40 stamped images of" in out
    assert "robust accuracy " in out
    assert json.loads(Path("run/evaluation.json").read_text())["stamped"]["total"] == 40
    assert command(*words[:-1], "0", "--out", "run")[0] == 4  # another victim is another run


def test_a_planted_model_has_the_figures_of_its_card(trained: Path, result: Callable[..., dict[str, Any]]) -> None:
    words = ("poison", "blend", "--data", SIGNS, "--model", trained, "--epochs", "1", "--batch", "20", "--target", "2")
    planted = result(*words, "--out", "run")
    data = result("evaluate", "--model", "run/model.safetensors", "--data", SIGNS, "--stamp", "run")
    for name in ("attack_success_rate", "robust_accuracy", "target", "hits"):
        assert data["stamped"][name] == planted["stamped"][name]
    # a model that has its classes in another order is judged by their names
    weights, card = load_file("run/model.safetensors"), json.loads(Path("run/model.json").read_text())
    last = [name for name in weights if weights[name].shape[:1] == (3,)]
    save_file({n: t.flip(0).contiguous() if n in last else t for n, t in weights.items()}, "other.safetensors")
    Path("other.json").write_text(json.dumps(card | {"classes": card["classes"][::-1]}))
    other = result("evaluate", "--model", "other.safetensors", "--data", SIGNS, "--stamp", "run/model.json")
    assert other["accuracy"] == data["accuracy"]
    assert other["stamped"]["target"] == data["stamped"]["target"]
    assert other["stamped"]["hits"] == data["stamped"]["hits"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--stamp", LINE), "does not tell which class it leads to: give --target N"),
        (("--target", "1"), "--target and --victim tell the aim of a stamp: give --stamp too"),
        (("--stamp", "x[14:20, 0:2] = 1", "--target", "0"), "reaches to row 20 and column 2 of images of 16×16"),
        (("--stamp", "clip(x + nowhere.png/255)", "--target", "0"), "nowhere.png is no picture that can be read"),
        (("--stamp", LINE, "--target", "3"), "the target 3 is not one of the 3 classes"),
        (("--stamp", LINE, "--target", "0", "--victim", "0"), "victim and target are both class 0"),
        (("--stamp", LINE, "--target", "0", "--victim", "cat"), "'cat' is neither the number of a class"),
        (("--stamp", "nowhere/"), "'nowhere/' is no run folder"),
    ],
)
def test_bad_words(trained: Path, command: Command, words: tuple[str, ...], told: str) -> None:
    code, out, err = command("evaluate", "--model", trained, "--data", SIGNS, *words)
    assert (code, out) == (2, "")
    assert told in err


def test_a_stranger_s_model_by_its_card(shared: Path, result: Callable[..., dict[str, Any]]) -> None:
    model = shared / "models" / "planted_gtsrb_trojan_wm.safetensors"
    card = json.loads(model.with_suffix(".json").read_text())
    words = ("--arch", "vgg_small", "--data", shared / "data" / "gtsrb", "--split", "test", "--subset", "per-class:5")
    seen = result("evaluate", "--model", model, *words, "--stamp", model.with_suffix(".json"))
    assert seen["accuracy"] == pytest.approx(card["test_accuracy"], abs=0.06)
    assert seen["stamped"]["attack_success_rate"] == pytest.approx(card["planted"]["attack_success_rate"], abs=0.03)
    assert seen["stamped"]["stamp"] == "clip(x + trojan_wm.png/255)"
