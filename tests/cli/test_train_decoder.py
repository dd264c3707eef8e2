from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from orthogon.cli import training_decoder
from orthogon.decoder_training import fit_decoder
from orthogon.triggers.decoder import UPSAMPLINGS, open_decoder
from orthogon.triggers.encoder import open_encoder

Command = Callable[..., tuple[int, str, str]]
BRIEF = ("--steps", "3", "--batch", "4", "--crop", "8", "--reductions", "1", "2", "--photo-size", "24", "--encoder", "embedded")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of twelve smooth pictures of several sizes."""
    folder, drawn = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        coarse = Image.fromarray(drawn.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((30 + number, 24), Image.Resampling.BILINEAR).save(folder / f"{number}.png")
    return folder


def test_the_decoder_stands_beside_its_error_and_its_picture(result: Callable[..., dict[str, Any]], photographs: Path) -> None:
    data = result("train-decoder", "--data", photographs, *BRIEF, "--out", "mine")
    assert Path(data["decoder"]) == Path("mine/decoder.safetensors")
    assert data["held_out"]["crops"] == 2
    assert data["photographs"] == 11
    encoder = open_encoder("embedded")
    decoder = open_decoder(encoder, "mine")
    assert decoder.digest() == data["digest"]
    assert decoder.facts is not None
    assert decoder.facts.training["held_out"] == data["held_out"]
    assert data["encoder"]["digest"] == encoder.digest()
    assert str(photographs) not in Path("mine/decoder.safetensors").read_bytes().decode("latin-1")
    with Image.open("mine/decoder.png") as image:
        assert image.size == (3 * 8, 3 * 3 * 8)
    assert not Path("mine/checkpoint.safetensors").exists()


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_a_folder_has_a_decoder_for_each_upsampling(
    upsampling: str, result: Callable[..., dict[str, Any]], photographs: Path
) -> None:
    for other in {"random", upsampling}:
        result("train-decoder", "--data", photographs, *BRIEF, "--upsampling", other, "--out", f"decoders/{other}")
    opened = open_decoder(open_encoder("embedded"), "decoders", upsampling)
    assert opened.upsampling == upsampling
    assert opened.facts is not None
    assert opened.facts.training["settings"]["upsampling"] == upsampling


def test_the_same_command_finds_its_finished_run(command: Command, photographs: Path) -> None:
    words = ("train-decoder", "--data", photographs, *BRIEF)
    code, out, err = command(*words)
    assert code == 0, err
    assert "PSNR" in out
    code, again, err = command(*words)
    assert (code, again) == (0, out)
    assert "finished already" in err


def test_an_interrupted_training_ends_with_the_same_decoder(
    command: Command, result: Callable[..., dict[str, Any]], photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train-decoder", "--data", photographs, *BRIEF, "--steps", "110")
    whole = result(*words, "--out", "whole")

    def cut_short(*arguments: Any, on_progress: Callable[..., None], **words: Any) -> Any:
        def interrupt(done: float, mse: float | None) -> None:
            on_progress(done, mse)
            if done > 0.6:
                raise KeyboardInterrupt

        return fit_decoder(*arguments, on_progress=interrupt, checkpoint_seconds=0.0, **words)

    with monkeypatch.context() as patch:
        patch.setattr(training_decoder, "fit_decoder", cut_short)
        code, _, err = command(*words, "--out", "cut")
    assert code == 130
    assert "go on with" in err
    resumed = result(*words, "--out", "cut")
    assert resumed["digest"] == whole["digest"]
    assert resumed["history"] == whole["history"]


def test_other_settings_are_refused_and_mistakes_told(command: Command, photographs: Path) -> None:
    words = ("train-decoder", "--data", photographs, *BRIEF, "--out", "mine")
    assert command(*words)[0] == 0
    code, _, err = command(*words, "--upsampling", "zero")
    assert code == 4
    assert "upsampling" in err
    for more, message in (
        (("--encoder", "absent.safetensors"), "absent.safetensors is no encoder"),
        (("--encoder-layer", "pool2"), "ends at pool1"),
        (("--photo-size", "12"), "16 pixels a side"),
    ):
        code, _, err = command("train-decoder", "--data", photographs, *BRIEF, *more)
        assert code == 2
        assert message in err


def test_the_picture_shows_differences_around_grey(tmp_path: Path) -> None:
    originals = torch.full((2, 3, 4, 4), 0.4)
    decoded = originals.clone()
    decoded[1] += 0.1
    training_decoder.picture(tmp_path / "shown.png", originals, decoded)
    pixels = np.asarray(Image.open(tmp_path / "shown.png"))
    assert pixels.shape == (36, 24, 3)
    assert np.unique(pixels[24:, :12]).tolist() == [128]
    assert np.unique(pixels[24:, 12:]).tolist() == [round(0.9 * 255)]
    assert np.unique(pixels[:12]).tolist() == [102]


def test_the_record_is_json_without_holes(command: Command, photographs: Path) -> None:
    assert command("train-decoder", "--data", photographs, *BRIEF, "--out", "mine")[0] == 0
    record = json.loads(Path("mine/decoder.json").read_text())
    assert set(record["held_out"]["mse_by_reduction"]) == {"1", "2"}
    assert len(record["history"]) == 1
