from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon import load_classifier, open_images
from orthogon.cli import benching_poisoned, benching_removal, main
from orthogon.planting import read_trigger
from orthogon.removal import REMOVERS

Command = Callable[..., tuple[int, str, str]]
Json = Callable[..., dict[str, Any]]
ZOO = Path(__file__).parents[2] / "zoo"
BADNETS, POLYGON, BLEND = (ZOO / f"signs-{name}" for name in ("badnets", "polygon", "blend"))
SIGNS = "signs:classes=6,size=20,per_class=16"
QUICK = [word for change in ("epochs=6", "batch=16", "learning_rate=0.2") for word in ("--set", f"fine-tuning.{change}")]
ROW = ["--rows", "fine-tuning"]


def bench(out: Path, models: list[Path], *more: str, grid: str = "removal") -> list[str]:
    words = ["bench", grid, "--models", *map(str, models), "--data", SIGNS, "--clean", "fraction:0.75", "--out", str(out)]
    return [*words, *ROW, *more]


def cell(record: dict[str, Any], row: str, model: str) -> dict[str, Any]:
    return next(c for c in record["cells"] if (c["row"], c["model"]) == (row, model))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fine-tuning on two models, one of them poisoned for one victim class only."""
    out = tmp_path_factory.mktemp("bench-removal") / "run"
    assert main(bench(out, [BADNETS, POLYGON], *QUICK, "--beside", "signs-badnets=preactresnet18-cifar10")) == 0
    return out


@pytest.fixture
def misplaced(tmp_path: Path) -> Path:
    """A poisoned model whose outputs stand for other classes than its card says, which no method can work with."""
    folder = tmp_path / "misplaced"
    shutil.copytree(BLEND, folder)
    weights = load_file(folder / "model.safetensors")
    rolled = {name: weights[name].roll(1, 0) for name in ("fc.weight", "fc.bias")}
    save_file({**weights, **rolled}, folder / "model.safetensors")
    return folder


def test_every_cell_is_judged_on_the_test_images(finished: Path) -> None:
    record = read(finished / "removal-bench.json")
    assert [(c["row"], c["model"]) for c in record["cells"]] == [
        (row, model) for row in ("as-it-came", "fine-tuning") for model in ("signs-badnets", "signs-polygon")
    ]
    test = open_images(SIGNS, split="test")
    for found in record["cells"]:
        zoo = ZOO / found["model"]
        weights = finished / found["folder"] if found["row"] == "fine-tuning" else zoo
        classifier, trigger = load_classifier(str(weights / "model.safetensors")), read_trigger(zoo / "trigger.safetensors")
        threat = trigger.threat
        wanted = (test.labels == threat.victim) if threat.victim is not None else (test.labels != threat.target)
        pictures = (trigger.stamp(test.pixels[wanted].float() / 255).clamp(0, 1) * 255).round() / 255
        with torch.no_grad():
            clean, stamped = classifier(test.pixels.float() / 255).argmax(1), classifier(pictures).argmax(1)
        assert found["accuracy"] == pytest.approx(float((clean == test.labels).float().mean()))
        assert found["success"] == pytest.approx(float((stamped == threat.target).float().mean()))
        assert found["robust"] == pytest.approx(float((stamped == test.labels[wanted]).float().mean()))
        kept = read(finished / found["folder"] / "cell.json")
        assert kept["stamped"]["total"] == int(wanted.sum())


def test_losses_and_means_are_those_of_the_cells(finished: Path) -> None:
    record = read(finished / "removal-bench.json")
    for mean in record["means"]:
        cells = [c for c in record["cells"] if c["row"] == mean["row"]]
        assert (mean["models"], mean["of"]) == (2, 2)
        for field in ("accuracy", "success", "robust", "lost"):
            assert mean[field] == pytest.approx((cells[0][field] + cells[1][field]) / 2)
    for model in ("signs-badnets", "signs-polygon"):
        before, after = cell(record, "as-it-came", model), cell(record, "fine-tuning", model)
        assert (before["lost"], before["minutes"]) == (0, None)
        assert after["lost"] == pytest.approx(before["accuracy"] - after["accuracy"])
        assert after["minutes"] > 0
    assert cell(record, "fine-tuning", "signs-badnets")["success"] < cell(record, "as-it-came", "signs-badnets")["success"]


def test_the_repaired_model_has_a_card_of_its_own(finished: Path) -> None:
    found = cell(read(finished / "removal-bench.json"), "fine-tuning", "signs-badnets")
    card = read(finished / found["folder"] / "model.json")
    assert card["accuracy"] == found["accuracy"]
    assert card["removal"]["settings"]["epochs"] == 6
    assert card["removal"]["model"]["stamp"] == "badnets"
    assert "attack" not in card


def test_finished_cells_are_read_and_others_join_them(
    finished: Path, tmp_path: Path, result: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    asked = watched(monkeypatch)
    result(*bench(out, [BADNETS, POLYGON], *QUICK))
    assert asked == []
    data = result(*bench(out, [BLEND], *QUICK))
    assert asked == ["signs-blend"]
    assert [model["model"] for model in data["models"]] == ["signs-badnets", "signs-polygon", "signs-blend"]
    assert {c["status"] for c in data["cells"]} == {"finished"}
    assert data["means"][1]["of"] == 3
    changed = result(*bench(out, [BLEND], *QUICK, "--set", "fine-tuning.epochs=1"))
    assert asked == ["signs-blend", "signs-blend"]
    status = {c["model"]: c["status"] for c in changed["cells"] if c["row"] == "fine-tuning"}
    assert status == {
        "signs-badnets": "waiting",
        "signs-polygon": "waiting",
        "signs-blend": "finished",
    }  # other epochs, other row
    assert (changed["means"][1]["models"], changed["means"][1]["of"]) == (1, 3)


def test_an_interrupted_command_goes_on_with_the_next_cell(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = watched(monkeypatch, interrupt=2)
    words = bench(tmp_path / "run", [BADNETS, BLEND], *QUICK, "--set", "fine-tuning.epochs=1")
    assert command(*words)[0] == 130
    record = read(tmp_path / "run" / "removal-bench.json")
    assert [c["status"] for c in record["cells"]] == ["finished", "finished", "finished", "waiting"]
    assert command(*words)[0] == 0
    assert asked == ["signs-badnets", "signs-blend", "signs-blend"]
    record = read(tmp_path / "run" / "removal-bench.json")
    assert {c["status"] for c in record["cells"]} == {"finished"}


def test_a_cell_that_fails_is_listed_and_counts_in_no_mean(
    tmp_path: Path, misplaced: Path, result: Json, command: Command
) -> None:
    out = tmp_path / "run"
    data = result(*bench(out, [misplaced, BADNETS], *QUICK, "--set", "fine-tuning.epochs=1"))
    failed, other = (cell(data, "fine-tuning", name) for name in ("misplaced", "signs-badnets"))
    assert (failed["status"], failed["success"], other["status"]) == ("failed", None, "finished")
    assert "the model and the labels of the clean images disagree" in failed["reason"]
    mean = data["means"][1]
    assert (mean["models"], mean["of"], mean["success"]) == (1, 2, other["success"])
    for page in ("removal-bench.md", "removal-bench.html"):
        assert "Fine-tuning failed on misplaced, which counts in no mean" in (out / page).read_text()
    assert "(1 of 2)" in (out / "removal-bench.md").read_text()


def test_an_unforeseen_error_of_a_method_stops_no_other_cell(
    tmp_path: Path, result: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(classifier: object, images: object, remover: object, generator: object, **more: object) -> None:
        raise KeyError("bn1")

    monkeypatch.setattr(benching_removal, "remove", remove)
    data = result(*bench(tmp_path / "run", [BADNETS]))
    assert cell(data, "fine-tuning", "signs-badnets")["reason"] == "KeyError: 'bn1'"


def watched(monkeypatch: pytest.MonkeyPatch, interrupt: int = 0) -> list[str]:
    """The models that removers are set on, as they come; the one of that number is interrupted."""
    asked: list[str] = []
    work = benching_removal._Work._removed

    def removed(self: Any, remover: Any, layers: Any, model: Any) -> Any:
        asked.append(model.name)
        if len(asked) == interrupt:
            raise KeyboardInterrupt
        return work(self, remover, layers, model)

    monkeypatch.setattr(benching_removal._Work, "_removed", removed)
    return asked


def test_layers_are_named_as_by_orthogon_remove(tmp_path: Path, result: Json) -> None:
    """The first block's convolution instead of the last one, which fine-pruning would choose."""
    assert not any("layer" in vars(kind()) for kind in REMOVERS.values()), "a setting would be taken for a layer"
    quick = ["--rows", "fine-pruning", "--set", "fine-pruning.epochs=1", "--set", "fine-pruning.step=0.5"]
    words = [*bench(tmp_path / "run", [BADNETS], *quick), "--set", "fine-pruning.layer=block1.layer.0.conv1"]
    data = result(*words)
    found = cell(data, "fine-pruning", "signs-badnets")
    assert found["status"] == "finished", found["reason"]
    assert any("channels of block1.layer.0.conv1" in note for note in found["notes"])
    assert data["rows"][1]["settings"]["layer"] == ["block1.layer.0.conv1"]
    card = read(tmp_path / "run" / found["folder"] / "model.json")
    assert card["removal"]["settings"]["layer"] == ["block1.layer.0.conv1"]


def test_a_strangers_checkpoint_with_a_stamp_in_its_card(tmp_path: Path, result: Json) -> None:
    given = read(BADNETS / "model.json")
    card = {name: given[name] for name in ("normalisation", "classes", "image_shape")}
    card |= {"architecture": "a small network in prose", "planted": {"stamp": "x[16:19, 16:19] = 1", "target": 2}}
    (tmp_path / "net.json").write_text(json.dumps(card))
    shutil.copy(BADNETS / "model.safetensors", tmp_path / "net.safetensors")
    words = bench(tmp_path / "run", [tmp_path / "net.safetensors"], "--arch", "wrn16_1", *QUICK)
    data = result(*words, "--set", "fine-tuning.epochs=1")
    assert (data["models"][0]["stamp"], data["models"][0]["victim"]) == ("x[16:19, 16:19] = 1", None)
    test, classifier = open_images(SIGNS, split="test"), load_classifier(str(BADNETS / "model.safetensors"))
    stamped = test.pixels[test.labels != 2].float() / 255
    stamped[:, :, 16:19, 16:19] = 1
    with torch.no_grad():
        taken = classifier(stamped).argmax(1) == 2
    assert cell(data, "as-it-came", "net")["success"] == pytest.approx(float(taken.float().mean()))


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / name / "model.safetensors" for name in ("a/net", "b/net", "c/other")]
    assert benching_poisoned.names_of(files) == ["a-net", "b-net", "c-other"]
    assert benching_poisoned.names_of(files[1:]) == ["net", "other"]
    with pytest.raises(ValueError, match="more than once"):
        benching_poisoned.names_of([files[0], files[0]])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--rows", "fine-tunin"], "'fine-tunin' is none of removal's (did you mean fine-tuning?)"),
        (["--set", "fine-tuning.epoch=3"], "setting 'epoch=3' is not one of fine-tuning's"),
        (
            ["--set", "fine-tuning.layer=fc"],
            "--set fine-tuning.layer=fc: fine-tuning works on the whole network; those that take",
        ),
        (["--rows", "nad", "--set", "nad.layer=block9"], "'block9' is no layer of"),
        (["--rows", "nad", "--set", "nad.layer="], "'' is no layer of"),
        (["--set", "epochs=3"], "is no ROW.NAME=VALUE of a row that is run (fine-tuning)"),
        (["--beside", "blend=preactresnet18-cifar10"], "is no MODEL=SUBJECT: the models are signs-badnets, and mean"),
        (["--beside", "mean=preactresnet18"], "(did you mean preactresnet18-cifar10?)"),
        (
            ["--data", "signs:classes=8,size=20,per_class=8"],
            "signs-badnets/model.safetensors: the data have 8 classes, the model 6",
        ),
        (
            ["--data", "signs:classes=4,size=20,per_class=8"],
            "has fewer than two images of 'white-triangle-dots', 'white-wedge-plain'",
        ),
        (["--models", "nowhere"], "there is no nowhere; give a run folder"),
        (["--models", str(ZOO / "signs-clean")], "its card tells of no attack"),
        (["--models", str(BADNETS), str(BADNETS)], "more than once"),
        (["--test-split", "train", "--clean", "fraction:1"], "are among the test images"),
        (["--test-split", "exam"], "--test-split and --test-data say which"),
        (["--clean", "some"], "'some' is none of first:N"),
    ],
)
def test_wrong_words_are_told(more: list[str], reason: str, tmp_path: Path, command: Command) -> None:
    code, out, err = command(*bench(tmp_path / "run", [BADNETS], *more))
    assert (code, out) == (2, "")
    assert reason in err
    assert not (tmp_path / "run").exists()


def test_where_no_cell_can_be_finished_that_is_the_error(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack_success(*words: object, **more: object) -> None:
        raise ValueError("nothing to stamp")

    monkeypatch.setattr(benching_removal, "attack_success", attack_success)
    code, _, err = command(*bench(tmp_path / "run", [BADNETS]))
    assert code == 2
    assert "no cell could be finished" in err
    assert "Fine-tuning, signs-badnets: nothing to stamp" in err


def test_list_tells_the_grids_of_removers(command: Command, result: Json) -> None:
    listed = command("bench", "list")[1]
    for name in ("removal", "moth-figure12", "deck-table4", "deck-table9", "wanet-celeba-resnet18"):
        assert name in listed
    data = result("bench", "list")
    assert "fine-tuning" in data["removal"]["rows"]
    assert "DECK" in data["deck-table4"]["rows"]["deck"]
    helped = command("bench", "removal", "--help")[1]
    assert "--models" in helped
    assert "nad.layer=block3" in helped
    assert "--pgd" not in helped
    assert "--pgd" in command("bench", "moth-table1", "--help")[1]
