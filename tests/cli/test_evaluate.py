from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from .conftest import SIGNS

Command = Callable[..., tuple[int, str, str]]


def test_the_number_of_the_card_again(trained: Path, result: Callable[..., dict[str, Any]]) -> None:
    card = json.loads(trained.with_suffix(".json").read_text())
    data = result("evaluate", "--model", trained, "--data", SIGNS)
    assert data["accuracy"] == card["accuracy"]
    assert data["total"] == 120
    assert data["robust"] is None
    assert data["interval_95"][0] < data["accuracy"] < data["interval_95"][1] or data["accuracy"] == 1
    stored = json.loads((Path(data["run"]) / "evaluation.json").read_text())
    assert stored == {key: value for key, value in data.items() if key != "run"}


def test_under_attack_and_for_people(trained: Path, command: Command) -> None:
    words = ("evaluate", "--model", trained, "--data", SIGNS, "--pgd", "8/255", "--pgd-steps", "3")
    code, out, err = command(*words, "--subset", "per-class:10", "--out", "run")
    assert code == 0, err
    assert "robust accuracy" in out
    assert "95 % confidence" in out
    data = json.loads(Path("run/evaluation.json").read_text())
    assert data["robust"]["bound"] == 8 / 255
    assert data["robust"]["steps"] == 3
    assert data["robust"]["accuracy"] <= data["accuracy"]


def test_class_names_in_another_order_are_put_right(trained: Path, result: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    from orthogon.data import open_images

    images = open_images(SIGNS)
    for row in range(30):
        folder = tmp_path / "images" / images.classes[int(images.labels[row])]  # folders are read in alphabetical order
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[row].permute(1, 2, 0).numpy()).save(folder / f"{row}.png")
    assert sorted(images.classes) != list(images.classes)
    by_name = result("evaluate", "--model", trained, "--data", "images")
    expected = result("evaluate", "--model", trained, "--data", SIGNS, "--subset", "first:30")
    assert by_name["accuracy"] == expected["accuracy"]


def test_a_class_without_images_has_no_accuracy(trained: Path, command: Command) -> None:
    code, out, err = command("evaluate", "--model", trained, "--data", SIGNS, "--subset", "first:1")
    assert code == 0, err
    assert "nan" not in out
    assert "–" in out


def test_other_settings_are_refused_with_their_own_code(trained: Path, command: Command) -> None:
    words = ("evaluate", "--model", trained, "--data", SIGNS, "--out", "run")
    assert command(*words)[0] == 0
    code, out, err = command(*words, "--seed", "1")
    assert (code, out) == (4, "")
    assert "seed: 0 -> 1" in err
    code, _, err = command(*words, "--seed", "1", "--fresh")
    assert code == 0, err
    assert Path("run.old-1/evaluation.json").exists()


def test_a_model_that_changed_under_its_name_is_noticed(trained: Path, command: Command, tmp_path: Path) -> None:
    copy = tmp_path / "net.safetensors"
    weights = load_file(trained)
    save_file(weights, copy)
    copy.with_suffix(".json").write_text(trained.with_suffix(".json").read_text())
    words = ("evaluate", "--model", copy, "--data", SIGNS, "--out", "run")
    assert command(*words)[0] == 0
    save_file({name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}, copy)
    code, _, err = command(*words)
    assert code == 4
    assert "inputs.model" in err


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def wrong_arch(model: Path) -> list[str]:
    return ["--model", str(model), "--arch", "vgg13_bn", "--data", SIGNS]


def wrong_class_count(model: Path) -> list[str]:
    return ["--model", str(model), "--data", "signs:classes=4,size=16,per_class=5"]


def missing_model(model: Path) -> list[str]:
    return ["--model", "nowhere.safetensors", "--arch", "resnet20", "--data", SIGNS]


def missing_data(model: Path) -> list[str]:
    return ["--model", str(model), "--data", "nowhere/images"]


def pickle_with_code(model: Path) -> list[str]:
    Path("bomb.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": Bomb()}, "bomb2.pt")
    return ["--model", "bomb2.pt", "--arch", "resnet20", "--data", SIGNS]


def corrupt_image(model: Path) -> list[str]:
    for name in json.loads(model.with_suffix(".json").read_text())["classes"]:
        Path("images", name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(Path("images", name, "good.png"))
    Path("images", name, "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return ["--model", str(model), "--data", "images"]


def nan_weights(model: Path) -> list[str]:
    weights = {n: t.fill_(float("nan")) if t.is_floating_point() else t for n, t in load_file(model).items()}
    save_file(weights, "nan.safetensors")
    Path("nan.json").write_text(model.with_suffix(".json").read_text())
    return ["--model", "nan.safetensors", "--data", SIGNS]


def bad_normalization(model: Path) -> list[str]:
    return ["--model", str(model), "--data", SIGNS, "--normalization", "0.5"]


def bad_bound(model: Path) -> list[str]:
    return ["--model", str(model), "--data", SIGNS, "--pgd", "mnist"]


def bad_size(model: Path) -> list[str]:
    return ["--model", str(model), "--data", SIGNS, "--image-size", "16x"]


def bad_subset(model: Path) -> list[str]:
    return ["--model", str(model), "--data", SIGNS, "--subset", "first:100000"]


def file_in_the_way(model: Path) -> list[str]:
    Path("run").write_text("")
    return ["--model", str(model), "--data", SIGNS, "--out", "run"]


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (wrong_arch, "vgg13_bn"),
        (wrong_class_count, "4 classes"),
        (missing_model, "nowhere.safetensors"),
        (missing_data, "nowhere/images"),
        (pickle_with_code, "bomb2.pt"),
        (corrupt_image, "bad.png"),
        (nan_weights, "NaN"),
        (bad_normalization, "MEAN/STD"),
        (bad_bound, "8/255"),
        (bad_size, "--image-size"),
        (bad_subset, "first:N"),
        (file_in_the_way, "cannot write"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    trained: Path, command: Command, prepare: Callable[[Path], list[str]], told: str
) -> None:
    code, out, err = command("evaluate", *prepare(trained))
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert not Path("exploded").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_and_transparent_images_of_mixed_sizes_are_taken(
    trained: Path, result: Callable[..., dict[str, Any]], mode: str
) -> None:
    for name in json.loads(trained.with_suffix(".json").read_text())["classes"]:
        Path("images", name).mkdir(parents=True)
        for side in (16, 40):
            Image.new(mode, (side, side + 3)).save(Path("images", name, f"{side}.png"))
    assert result("evaluate", "--model", trained, "--data", "images")["total"] == 6


def test_names_come_from_the_data_where_the_model_has_none(
    trained: Path, result: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    save_file(load_file(trained), tmp_path / "bare.safetensors")
    card = json.loads(trained.with_suffix(".json").read_text())
    mean, std = (",".join(map(str, card["normalisation"][key])) for key in ("mean", "std"))
    words = ("--model", "bare.safetensors", "--arch", "resnet20", "--normalization", f"{mean}/{std}")
    data = result("evaluate", *words, "--data", SIGNS, "--image-size", "16")
    assert data["accuracy"] == card["accuracy"]
    assert [entry["class"] for entry in data["per_class"]] == card["classes"]
