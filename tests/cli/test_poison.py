from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orthogon import models
from orthogon.attacks import ATTACKS
from orthogon.cli import main, parse
from orthogon.cli.poison import FINE_TUNING, Poison
from orthogon.data import open_images
from orthogon.evaluate import accuracy, attack_success
from orthogon.planting import read_trigger, stages
from orthogon.planting.outcome import LEAST_SUCCESS
from orthogon.recipe import TrainingSettings
from orthogon.training import fit
from orthogon.zoo import ENTRIES

from .conftest import SIGNS

Command = Callable[..., tuple[int, str, str]]
QUICK = ("--epochs", "1", "--batch", "20", "--arch", "wrn16_1")
BADNETS = ("poison", "badnets", "--data", SIGNS, "--set", "size=4", "--set", "colour=1,0,1", "--rate", "0.3")


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small planted model."""
    out = tmp_path_factory.mktemp("planted") / "run"
    words = ("--epochs", "7", "--batch", "20", "--arch", "wrn16_1", "--learning-rate", "0.05", "--min-success", "0.6")
    assert main([*BADNETS, *words, "--out", str(out)]) == 0
    return out


def test_the_run_folder_holds_the_model_its_card_and_the_trigger(planted: Path) -> None:
    assert {"model.safetensors", "model.json", "trigger.safetensors", "planting.json"} <= {p.name for p in planted.iterdir()}
    assert not list(planted.glob("checkpoint*")) + list(planted.glob("poisoned*"))
    card = json.loads((planted / "model.json").read_text())
    attack = card["attack"]
    assert attack["name"] == "badnets"
    assert attack["settings"] == {"size": 4, "colour": [1.0, 0.0, 1.0], "corner": "bottom right", "margin": 1}
    assert attack["threat"] == {"target": 0, "victim": None, "rate": 0.3, "clean_label": False, "cover": 0.0}
    assert (attack["seed"], attack["planted"], card["made_by"]) == (0, True, "trained")
    assert attack["outcome"].startswith("planted: ")
    assert attack["stamped_training_images"] == 24
    record = json.loads((planted / "planting.json").read_text())
    assert record["accuracy"] == card["accuracy"] == record["clean"]["accuracy"]
    assert record["attack"]["attack_success_rate"] == attack["attack_success_rate"]
    assert len(record["history"]) == 7


def test_anybody_can_stamp_again_and_finds_the_figures_of_the_card(planted: Path) -> None:
    card = json.loads((planted / "model.json").read_text())
    classifier = models.load_classifier(str(planted / "model.safetensors"))
    images = open_images(SIGNS, image_shape=classifier.image_shape, classes=classifier.classes)
    assert accuracy(classifier, images).accuracy == card["accuracy"]
    trigger = read_trigger(planted / "trigger.safetensors")
    assert attack_success(classifier, images, trigger.stamp, 0).success_rate == card["attack"]["attack_success_rate"]


def test_for_people_and_again(planted: Path, command: Command) -> None:
    words = ("--epochs", "7", "--batch", "20", "--arch", "wrn16_1", "--learning-rate", "0.05", "--min-success", "0.6")
    code, out, err = command(*BADNETS, *words, "--out", planted)
    assert code == 0, err
    assert "finished already" in err
    for told in ("any other class", "attack success", "95 % confidence", "planted: ", f"orthogon stamp IMAGE --from {planted}"):
        assert told in out
    code, _, err = command(*BADNETS, *words, "--out", planted, "--target", "1")
    assert code == 4
    assert "threat.target: 0 -> 1" in err


def test_a_clean_model_is_fine_tuned_and_the_card_says_so(trained: Path, result: Callable[..., dict[str, Any]]) -> None:
    words = ("poison", "clean-label", "--data", SIGNS, "--model", trained, "--epochs", "1", "--batch", "20", "--set", "steps=1")
    data = result(*words, "--target", "1", "--out", "run")
    card = json.loads(Path("run/model.json").read_text())
    assert card["made_by"] == f"fine-tuned from {trained.parent.name}"
    assert card["architecture"] == "resnet20"
    assert card["hashes"]["start"] == card["hashes"]["surrogate"] is not None  # the surrogate is the clean model
    assert card["attack"]["threat"]["clean_label"] is True
    before, after = load_file(trained), load_file("run/model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert data["attack"]["planted"] == (data["attack"]["attack_success_rate"] >= 0.85)


def test_weights_without_a_card_are_fine_tuned_with_the_words_for_them(
    trained: Path, tmp_path: Path, result: Callable[..., dict[str, Any]]
) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes(trained.read_bytes())
    words = ("--model", bare, "--arch", "resnet20", "--normalization", "cifar10", "--epochs", "1", "--batch", "20")
    result("poison", "clean-label", "--target", "1", "--set", "steps=1", "--data", SIGNS, *words, "--out", "run")
    hashes = json.loads(Path("run/model.json").read_text())["hashes"]
    assert hashes["start"] == hashes["surrogate"] is not None  # which has the same normalisation, too


def test_without_success_no_backdoor_was_planted(command: Command) -> None:
    words = ("poison", "blend", "--data", SIGNS, *QUICK, "--set", "alpha=0.01", "--min-success", "1", "--out", "run")
    code, out, err = command(*words)
    assert code == 0, err
    assert "no backdoor was planted: " in out
    card = json.loads(Path("run/model.json").read_text())
    assert card["attack"]["planted"] is False
    assert card["attack"]["outcome"].startswith("no backdoor was planted: ")


def test_interrupted_it_ends_with_the_same_model(
    command: Command, result: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("poison", "blend", "--data", SIGNS, "--epochs", "2", "--batch", "20", "--arch", "wrn16_1")
    whole = result(*words, "--out", "whole")

    def cut_short(*arguments: Any, on_progress: Callable[..., None], **more: Any) -> Any:
        def interrupt(done: float, last: object) -> None:
            on_progress(done, last)
            if done > 0.7:
                raise KeyboardInterrupt

        return fit(*arguments, on_progress=interrupt, checkpoint_seconds=0.0, **more)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit", cut_short)
        code, out, err = command(*words, "--out", "cut")
    assert (code, out) == (130, "")
    assert "--out cut" in err
    assert Path("cut/checkpoint.safetensors").exists()
    again = result(*words, "--out", "cut")
    assert again["stamped"] == whole["stamped"]
    one, two = (load_file(run["model"]) for run in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_recipe_of_fine_tuning_is_another() -> None:
    fresh, tuned = (parse(["poison", "wanet", "--data", "d", *more]) for more in ([], ["--model", "m", "--epochs", "2"]))
    assert isinstance(fresh, Poison)
    assert isinstance(tuned, Poison)
    assert fresh.recipe == TrainingSettings()
    assert (tuned.recipe.epochs, tuned.recipe.learning_rate) == (2, FINE_TUNING.learning_rate)
    assert tuned.images.data == "d"
    assert fresh.min_success == LEAST_SUCCESS == ENTRIES["signs-blend"].least_success


def test_every_attack_is_listed_and_in_the_help(command: Command) -> None:
    code, out, _ = command("poison", "list", "--json")
    assert code == 0
    listed = json.loads(out)
    assert listed.keys() == ATTACKS.keys()
    assert listed["blend"]["settings"] == {"alpha": 0.2}
    shown = command("poison", "list")[1]
    told = command("poison", "--help")[1]
    for name in ATTACKS:
        assert f"{name}: " in shown
        assert name in told
    assert "label-specific, from class 1 to class 0; dirty labels, rate 0.1" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("blnd",), "did you mean blend?"),
        (("blend", "--rate", "1.5"), "rate must be from 0 to 1, got 1.5"),
        (("blend", "--rate", "0.0001"), "picks none: give at least"),
        (("blend", "--target", "3"), "the target 3 is not one of the 3 classes (0 and up)"),
        (("blend", "--victim", "7"), "the victim 7 is not one of the 3 classes"),
        (("blend", "--victim", "cat"), "'cat' is neither the number of a class (0 and up) nor any"),
        (("blend", "--victim", "1", "--target", "1"), "victim and target are both class 1"),
        (("polygon", "--target", "1"), "target 1 is the class that polygon takes for its victim: give --victim too"),
        (("blend", "--set", "beta=1"), "'beta=1' is not one of blend's: alpha=0.2"),
        (("blend", "--cover", "0.1"), "blend has no cover: set the threat's cover to 0"),
        (("badnets", "--set", "size=40"), "trigger of 40×40 pixels, 1 from the edge, does not fit on images of 16×16"),
        (("gotham", "--image-size", "1x16x16"), "gotham works on colours, but"),
        (("clean-label", "--target", "1"), "give a surrogate"),
        (("dfst",), "dfst learns the style of pictures: give some"),
        (("blend", "--held-out", "1", "--split", "test"), "--held-out 1.0 leaves no images"),
        (("blend", "--pictures", "nowhere"), "no images at 'nowhere'"),
        (("blend", "--model", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_bad_words(command: Command, words: tuple[str, ...], told: str) -> None:
    arch = () if "--model" in words else QUICK
    code, out, err = command("poison", *words, "--data", SIGNS, *arch)
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_no_image_of_the_victim_class_is_told_before_the_training(command: Command) -> None:
    words = ("--data", SIGNS, "--subset", "range:0:1", "--victim", "2", *QUICK)
    code, _, err = command("poison", "blend", *words)
    assert code == 2
    assert " (the victim) in synthetic signs" in err
