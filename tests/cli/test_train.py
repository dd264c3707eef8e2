from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from orthogon import models
from orthogon.cli import training
from orthogon.images import LabelledImages
from orthogon.training import fit

from .conftest import SIGNS

Command = Callable[..., tuple[int, str, str]]
WORDS = ("train", "--data", SIGNS, "--epochs", "2", "--batch", "20", "--arch", "resnet20")


def test_the_model_stands_beside_its_card_and_is_good(trained: Path) -> None:
    card = json.loads(trained.with_suffix(".json").read_text())
    assert card["architecture"] == "resnet20"
    assert card["accuracy"] > 0.8
    assert card["image_shape"] == [3, 16, 16]
    assert len(card["classes"]) == 3
    assert card["training"]["epochs"] == 12
    assert "(train)" in card["provenance"]
    assert "(test)" in card["provenance"]
    assert not (trained.parent / "checkpoint.safetensors").exists()
    assert models.load_classifier(str(trained)).classes == tuple(card["classes"])


def test_the_same_command_finds_its_finished_run(result: Callable[..., dict[str, Any]], command: Command) -> None:
    first = result(*WORDS)
    assert Path(first["run"]).parent == Path("runs")
    assert len(first["history"]) == 2
    code, out, err = command(*WORDS)
    assert code == 0
    assert "finished already" in err
    assert first["model"] in out
    other = result(*WORDS, "--seed", "1")
    assert other["run"] != first["run"]


def test_an_interrupted_training_ends_with_the_same_weights(
    command: Command, result: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = result(*WORDS, "--out", "whole")

    def cut_short(*arguments: Any, on_progress: Callable[..., None], **words: Any) -> Any:
        def interrupt(done: float, last: object) -> None:
            on_progress(done, last)
            if done > 0.7:
                raise KeyboardInterrupt

        return fit(*arguments, on_progress=interrupt, checkpoint_seconds=0.0, **words)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", cut_short)
        code, out, err = command(*WORDS, "--out", "cut")
    assert (code, out) == (130, "")
    assert "--out cut" in err
    assert Path("cut/checkpoint.safetensors").exists()
    again = result(*WORDS, "--out", "cut")
    assert again["accuracy"] == whole["accuracy"]
    one, two = (load_file(run["model"]) for run in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_data_without_splits_are_held_out(result: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for name, low in (("bright", 128), ("dark", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = torch.randint(low, low + 128, (8, 8, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "images" / name / f"{number}.png")
    words = ("--data", "images", "--epochs", "1", "--batch", "8", "--held-out", "0.25")
    data = result("train", *words, "--out", "run")
    assert data["total"] == 10
    assert [entry["class"] for entry in data["per_class"]] == ["bright", "dark"]


def test_a_model_of_own_code_tells_how_it_is_loaded(command: Command) -> None:
    Path("nets.py").write_text(
        "from orthogon.models import build\n\ndef make(classes): return build('resnet20', classes, (3, 16, 16))\n"
    )
    line = ("--data", SIGNS, "--epochs", "1", "--batch", "40", "--out", "run")
    code, out, err = command("train", *line, "--arch", "nets.py:make")
    assert code == 0, err
    assert "load it with --arch nets.py:make" in out
    model = ("--model", "run/model.safetensors", "--data", SIGNS)
    assert command("evaluate", *model, "--arch", "nets.py:make")[0] == 0


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that is made while it is on."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.size = max(self.size, out.nbytes)
        return out


def test_images_are_normalised_by_their_own_mean_and_deviation_without_a_copy_of_them_all() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (80, 3, 64, 64), generator=generator, dtype=torch.uint8)
    pixels[:, 1] //= 5
    pixels[:, 2] = 200
    images = LabelledImages(pixels, torch.arange(80) % 2, ("a", "b"), "drawn")
    with Largest() as largest:
        found = training.fresh_classifier("resnet20", images, 0).normalization
    plain = pixels.transpose(0, 1).flatten(1).double() / 255
    assert found.mean == pytest.approx(plain.mean(1).tolist(), abs=5.1e-5)  # four digits are kept
    assert found.std == pytest.approx([*plain.std(1)[:2].tolist(), 1e-3], abs=5.1e-5)
    assert largest.size <= pixels[:, 0].nbytes


def test_bad_words(command: Command) -> None:
    for words, told in (
        (("--arch", "resnet21"), "resnet20"),
        (("--epochs", "0"), "epochs"),
        (("--split", "nowhere"), "nowhere"),
        (("--learning-rate", "1e9"), "learning rate"),
    ):
        code, out, err = command("train", "--data", SIGNS, "--batch", "20", *words)
        assert (code, out) == (2, "")
        assert told in err
