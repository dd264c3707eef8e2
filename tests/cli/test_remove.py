from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from orthogon import attack_success, load_classifier, open_images, runs
from orthogon.classifier import Classifier
from orthogon.cli import main, parse, removing
from orthogon.cli.remove import Remove
from orthogon.planting import read_trigger
from orthogon.removal import REMOVERS, Remover, Work

Command = Callable[..., tuple[int, str, str]]
Result = Callable[..., dict[str, Any]]
ZOO = Path(__file__).parents[2] / "zoo" / "signs-badnets"
SIGNS = "signs:classes=6,size=20,per_class=8"
QUICK = ("--set", "epochs=2", "--set", "batch=16", "--set", "learning_rate=0.02")
SUBJECT = ("--model", ZOO / "model.safetensors", "--data", SIGNS)
WORDS = ("remove", "fine-tuning", *SUBJECT, *QUICK)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished removal, judged by the stamp."""
    out = tmp_path_factory.mktemp("removed") / "run"
    assert main([str(word) for word in (*WORDS, "--stamp", ZOO, "--out", out)]) == 0
    return out


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def write_pictures(folder: Path, per_class: dict[str, int], stamped: bool = False) -> None:
    """Signs as pictures, a folder per class; stamped by the zoo's trigger where asked."""
    images = open_images("signs:classes=6,size=20,per_class=8,seed=5", split="test")
    trigger = read_trigger(ZOO / "trigger.safetensors")
    for c, name in enumerate(images.classes):
        pixels = images.of_class(c).pixels
        if stamped:
            pixels = (trigger.stamp(pixels.float() / 255) * 255).round().to(torch.uint8)
        (folder / name).mkdir(parents=True)
        for number, picture in enumerate(pixels[: per_class.get(name, 8)]):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / name / f"{number}.png")


def test_the_files_of_a_run(run: Path) -> None:
    record, card = read(run / "removal.json"), read(run / "model.json")
    assert (record["method"], record["settings"]["epochs"], record["settings"]["batch"]) == ("fine-tuning", 2, 16)
    assert record["hashes"]["model"] == runs.digest(ZOO / "model.safetensors")
    assert record["hashes"]["repaired"] == runs.digest(run / "model.safetensors") != record["hashes"]["model"]
    assert [look["stage"] for look in record["history"]] == ["fine-tuning"]
    assert record["held_out"]["after"]["total"] == record["images"]["held_out"]["count"] == 6
    assert record["images"]["clean"]["count"] == 42
    assert record["accuracy"]["images"] == "test images"
    assert record["accuracy"]["after"]["total"] == 48
    assert record["stamped"]["before"]["attack_success_rate"] > 0.95
    assert record["stamped"]["before"]["total"] == record["stamped"]["after"]["total"] == 40  # none of the target class
    assert record["seconds"] > 0
    assert card["accuracy"] == record["accuracy"]["after"]["accuracy"]
    assert card["removal"] == {"method": "fine-tuning", "source": record["source"], "settings": record["settings"]}
    assert "repaired by orthogon remove fine-tuning on synthetic signs" in card["provenance"]
    assert not (run / "unjudged.json").exists()


def test_the_card_says_nothing_of_the_model_that_was_given_as_if_it_still_held(run: Path) -> None:
    card, given = read(run / "model.json"), read(ZOO / "model.json")
    assert "attack" not in card
    assert card["given_model"]["attack"] == given["attack"]
    assert {name: card[name] for name in ("architecture", "classes", "normalisation")} == {
        name: given[name] for name in ("architecture", "classes", "normalisation")
    }


def test_the_figures_are_those_of_the_written_model(run: Path, result: Result) -> None:
    record = read(run / "removal.json")
    for side, model in (("before", ZOO), ("after", run)):
        data = result("evaluate", "--model", model / "model.safetensors", "--data", SIGNS, "--stamp", ZOO)
        assert data["accuracy"] == record["accuracy"][side]["accuracy"]
        for name in ("attack_success_rate", "robust_accuracy", "hits", "per_class"):
            assert data["stamped"][name] == record["stamped"][side][name]


def test_images_to_judge_by_are_not_learned_from(tmp_path: Path, command: Command) -> None:
    """--test names pictures of which some are among the clean ones."""
    shared, own = tmp_path / "both", tmp_path / "clean"
    write_pictures(shared, {})
    shutil.copytree(shared, own)
    for picture in sorted(shared.glob("*/*.png"))[::2]:
        picture.unlink()
    code, _, err = command("remove", "fine-tuning", *SUBJECT[:2], "--data", own, "--test", shared, *QUICK, "--out", "run")
    assert code == 0, err
    record = read(Path("run/removal.json"))
    assert record["images"]["judged"]["count"] == 24
    assert record["images"]["clean"]["count"] + record["images"]["held_out"]["count"] == 24
    assert "without 24 that are among the images to judge by" in record["images"]["clean"]["source"]


def test_the_given_model_is_not_touched_and_the_seed_decides(run: Path, result: Result) -> None:
    before = runs.digest(ZOO / "model.safetensors")
    other = result(*WORDS, "--out", "other", "--seed", 1)
    assert other["hashes"]["repaired"] != read(run / "removal.json")["hashes"]["repaired"]
    assert runs.digest(ZOO / "model.safetensors") == before


def test_for_people_and_again(run: Path, command: Command) -> None:
    files = ("model.safetensors", "removal.json")
    before = {name: (run / name).stat().st_mtime_ns for name in files}
    code, out, err = command(*WORDS, "--stamp", ZOO, "--out", run)
    assert code == 0, err
    assert "finished already" in err
    for told in ("attack success rate", "robust accuracy", "95 %", "accuracy on test images", str(run / "model.safetensors")):
        assert told in out
    assert {name: (run / name).stat().st_mtime_ns for name in files} == before
    code, _, err = command(*WORDS, "--stamp", ZOO, "--out", run, "--flip")
    assert code == 4
    assert "flip: false -> true" in err


def test_the_report_and_its_command(run: Path, command: Command) -> None:
    page = run / "report.html"
    text = page.read_text()
    record = read(run / "removal.json")
    assert f"{100 * record['stamped']['after']['attack_success_rate']:.2f} %" in text
    page.unlink()
    assert command("report", run)[0] == 0
    assert page.read_text() == text
    found = re.search(r"<pre>(orthogon remove .*?)</pre>", text, re.DOTALL)
    assert found
    parsed = parse(shlex.split(html.unescape(found[1]))[1:])
    assert isinstance(parsed, Remove)
    asked = parse([str(word) for word in (*WORDS, "--stamp", ZOO)])
    assert isinstance(asked, Remove)
    told = asdict(parsed) | {"settings": set(parsed.settings)}
    assert told == asdict(asked) | {"settings": set(asked.settings)}


def test_an_interrupted_run_is_judged_without_a_second_repair(
    run: Path, command: Command, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(removing, "attack_success", interrupt)
        assert command(*WORDS, "--stamp", ZOO, "--out", "cut")[0] == 130
    assert Path("cut/model.safetensors").exists()
    assert not Path("cut/removal.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(removing, "remove", interrupt)
        data = result(*WORDS, "--stamp", ZOO, "--out", "cut")
    finished = read(run / "removal.json")
    assert data["hashes"] == finished["hashes"]
    assert data["stamped"] == finished["stamped"]


def test_pictures_that_are_stamped_already_are_judged_as_by_the_stamp(run: Path, result: Result) -> None:
    write_pictures(Path("stamped"), {}, stamped=True)
    write_pictures(Path("plain"), {})
    data = result(*WORDS, "--test", "plain/", "--stamped", "stamped", "--target", 0, "--out", "folder")
    classifier = load_classifier(str(ZOO / "model.safetensors"))
    plain = open_images("plain", image_shape=classifier.image_shape, classes=classifier.classes)
    trigger = read_trigger(ZOO / "trigger.safetensors")
    expected = attack_success(classifier, plain, trigger.stamp, 0)
    assert data["stamped"]["before"]["hits"] == sum(expected.hits) > 35
    assert data["stamped"]["before"]["total"] == 40  # 48 pictures, 8 of them of the target
    assert (data["accuracy"]["after"]["total"], data["images"]["judged"]["count"]) == (48, 48)
    assert data["images"]["stamped"]["stamp"] == "stamped already"


def test_data_without_a_test_part_are_judged_on_the_held_out_images(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("the repair has measured this accuracy already")

    monkeypatch.setattr(removing, "accuracy", again)
    write_pictures(Path("clean"), {})
    words = ("remove", "fine-tuning", *SUBJECT[:2], "--data", "clean", *QUICK, "--out", "run")
    code, out, err = command(*words, "--held-out", "per-class:2")
    assert code == 0, err
    assert "accuracy on held-out images" in out
    record = read(Path("run/removal.json"))
    assert (record["accuracy"]["images"], record["accuracy"]["after"]["total"]) == ("held-out images", 12)
    for side in ("before", "after"):
        assert record["accuracy"][side] == record["held_out"][side]
    repaired = load_classifier("run/model.safetensors")
    clean = open_images("clean", image_shape=repaired.image_shape, classes=repaired.classes)
    held_out, _ = clean.divide("per-class:2", torch.Generator().manual_seed(0))
    with torch.no_grad():
        right = repaired(held_out.floats()).argmax(1) == held_out.labels
    assert record["accuracy"]["after"]["accuracy"] == pytest.approx(float(right.float().mean()))
    assert record["stamped"] is None
    assert "No stamped images were given" in Path("run/report.html").read_text()


def test_a_part_of_the_clean_images_can_be_kept_to_judge_by(result: Result) -> None:
    data = result(*WORDS, "--test", "per-class:3", "--out", "run")
    assert data["accuracy"]["images"] == "test images"
    assert {name: part and part["count"] for name, part in data["images"].items()} == {
        **{"judged": 18, "held_out": 6, "clean": 24},
        "stamped": None,
    }


def test_the_list_tells_every_method_with_its_settings(result: Result, command: Command) -> None:
    data = result("remove", "list")
    assert list(data) == list(REMOVERS)
    assert data["fine-tuning"]["settings"]["epochs"] == 20
    out = command("remove", "list")[1]
    assert all(f"{name}: " in out and kind.source in out for name, kind in REMOVERS.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "epoch=3"), "'epoch=3' is not one of fine-tuning's: epochs=20"),
        (("--set", "epochs=few"), "epochs takes a whole number"),
        (("--layer", "layer9"), "'layer9' is no layer of"),
        (("--held-out", "per-class:7"), "--held-out per-class:7 takes the others away: name a smaller part of each class"),
        (("--test", "validation"), "--test validation: "),
        (("--test", "./nowhere"), "no images at './nowhere'"),
        (("--test", "train"), "--test train holds all 48 clean images: name others to judge by"),
        (("--stamp", ZOO, "--stamped", "pictures"), "give one of them"),
        (("--stamped", "pictures"), "does not tell which class its pictures lead to: give --target N"),
        (("--target", "0"), "give --stamp too"),
        (("--stamp", ZOO, "--target", "6"), "the target 6 is not one of the 6 classes"),
        (("--stamp", "x[0:2, 0:2] = 1"), "does not tell which class it leads to"),
        (("--stamp", "x[30:32, 0:2] = 1", "--target", "0"), "reaches to row 32"),
        (("--subset", "first:5"), "too few images of "),
    ],
)
def test_bad_words_are_told_before_anything_is_done(command: Command, words: tuple[object, ...], told: str) -> None:
    code, out, err = command(*WORDS, *words, "--out", "run")
    assert (code, out) == (2, "")
    assert told in err
    assert not Path("run").exists()


def test_a_method_that_there_is_not(command: Command) -> None:
    code, _, err = command("remove", "fine-tunning", *SUBJECT)
    assert code == 2
    assert "'fine-tunning' is no method (did you mean fine-tuning?); there are auto, fine-tuning" in err


def test_a_class_without_clean_images_is_named(command: Command) -> None:
    write_pictures(Path("clean"), {"blue-circle-arrow": 0, "white-circle-3": 2})
    code, _, err = command("remove", "fine-tuning", *SUBJECT[:2], "--data", "clean", *QUICK)
    assert code == 2
    assert "too few images of white-circle-3 (2), blue-circle-arrow (0) in folder clean" in err
    assert "give at least three clean images of every class" in err


def test_labels_that_the_model_does_not_share_are_told_before_the_repair(command: Command) -> None:
    write_pictures(Path("right"), {})
    Path("wrong").mkdir()
    names = sorted(path.name for path in Path("right").iterdir())
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        Path("right", name).rename(Path("wrong", other))
    words = ("remove", "fine-tuning", *SUBJECT[:2], "--data", "wrong", *QUICK, "--out", "run")
    code, out, err = command(*words)
    assert (code, out) == (3, "")
    assert "class names in another order than its outputs" in err
    assert "--force" in err
    assert not Path("run/model.safetensors").exists()
    code, _, err = command(*words, "--force")
    assert code == 0, err
    assert "take care: the model agrees with less than half of the labels of " in err


@dataclass(frozen=True)
class Renormed(Remover):
    """Needs a BatchNorm, and leaves everything as it is."""

    name: ClassVar[str] = "renormed"
    source: ClassVar[str] = "this test"

    def check(self, classifier: Classifier) -> None:
        if not any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules()):
            raise ValueError(f"{type(classifier.network).__name__} has no BatchNorm, which renormed needs: take fine-tuning")

    def remove(self, work: Work) -> Classifier:
        return work.classifier


def test_a_model_that_lacks_what_the_method_needs_is_refused_first(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REMOVERS, "renormed", Renormed)
    Path("nets.py").write_text("from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(1200, 6))\n")
    weights = nn.Sequential(nn.Flatten(), nn.Linear(1200, 6)).state_dict()
    save_file(weights, "plain.safetensors")
    plain = ("--model", "plain.safetensors", "--arch", "nets.py:make", "--normalization", "none", "--data", SIGNS)
    code, _, err = command("remove", "renormed", *plain, "--image-size", 20, "--out", "run")
    assert code == 2
    assert "has no BatchNorm, which renormed needs: take fine-tuning" in err
    assert not Path("run").exists()
    code, _, err = command("remove", "renormed", *SUBJECT, "--out", "run")
    assert code == 0, err
    assert "did not look at the model" in Path("run/report.html").read_text()
    given = load_file(ZOO / "model.safetensors")
    assert all(torch.equal(tensor, given[name]) for name, tensor in load_file("run/model.safetensors").items())
