"""Inversions and triggers as files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon.distance import Measurement
from orthogon.images import LabelledImages
from orthogon.matrix import DistanceMatrix
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.results import read_inversion, write_inversion, write_triggers
from orthogon.triggers import Patch, Trigger, TriggerFamily


def _trigger(seed: int) -> Trigger:
    generator = torch.Generator().manual_seed(seed)
    return {"mask": torch.rand(1, 4, 5, generator=generator), "pattern": torch.rand(3, 4, 5, generator=generator)}


FOUND = Inversion(Pair(0, 2), Outcome.FOUND, 12.5, 0.9, _trigger(0), (12.5, 14.25), 350)
FAILED = Inversion(Pair(1, 0), Outcome.ASR, math.nan, 0.4, _trigger(1), (), 350)
UNIVERSAL = Inversion(Pair(None, 1), Outcome.FOUND, 30.0, 0.95, _trigger(2), (30.0,), 350)
NONE = Inversion(Pair(2, 1), Outcome.SAMPLES, math.nan, math.nan, {})
BROKEN = Inversion(Pair(2, 0), Outcome.NOT_FINITE, math.nan, math.nan, {k: v * math.nan for k, v in _trigger(3).items()})
ALL = [FOUND, FAILED, UNIVERSAL, NONE, BROKEN]


@pytest.mark.parametrize("inversion", ALL, ids=lambda i: str(i.outcome))
def test_an_inversion_comes_back_as_it_was(inversion: Inversion, tmp_path: Path) -> None:
    write_inversion(tmp_path / "pair.safetensors", inversion)
    back = read_inversion(tmp_path / "pair.safetensors")
    assert back.pair == inversion.pair
    assert back.outcome is inversion.outcome
    assert (back.restarts, back.steps) == (inversion.restarts, inversion.steps)
    for name in ("size", "asr"):
        assert getattr(back, name) == pytest.approx(getattr(inversion, name), abs=0, nan_ok=True)
    assert set(back.trigger) == set(inversion.trigger)
    for name, value in inversion.trigger.items():
        assert torch.equal(back.trigger[name].nan_to_num(-1), value.nan_to_num(-1))
    assert [p.name for p in tmp_path.iterdir()] == ["pair.safetensors"]


def test_sizes_keep_all_their_digits(tmp_path: Path) -> None:
    size = float(torch.tensor(1 / 3))
    write_inversion(tmp_path / "pair", replace(FOUND, size=size, restarts=(size,)))
    assert read_inversion(tmp_path / "pair").size == size


def test_a_cut_off_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "pair.safetensors"
    write_inversion(path, FOUND)
    whole = path.read_bytes()
    for length in (0, 4, 40, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"pair\.safetensors is not the record of an inversion"):
            read_inversion(path)


def _header(pair: str = "[0, 1]", outcome: str = '"found"') -> str:
    return f'{{"pair": {pair}, "outcome": {outcome}, "size": 1, "asr": 1, "restarts": [], "steps": 1}}'


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"inversion": "not json"},
        {"inversion": "[1, 2]"},
        {"inversion": "{}"},
        {"inversion": _header(outcome='"splendid"')},
        {"inversion": _header(pair="[0]")},
        {"inversion": _header(pair="7")},
    ],
)
def test_another_s_file_is_told(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    save_file({"mask": torch.zeros(2)}, tmp_path / "pair.safetensors", metadata)
    with pytest.raises(ValueError, match="is not the record of an inversion"):
        read_inversion(tmp_path / "pair.safetensors")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_inversion(tmp_path / "nowhere")


def _images() -> LabelledImages:
    """Class 0 is dark, 1 grey, 2 bright; the images of class 1 come first."""
    values = torch.tensor([100, 101, 10, 11, 200, 201], dtype=torch.uint8)
    pixels = values.view(-1, 1, 1, 1).expand(-1, 3, 4, 5).contiguous()
    return LabelledImages(pixels, torch.tensor([1, 1, 0, 0, 2, 2]), ("dark", "grey", "bright"), "made up")


def _written(inversions: list[Inversion], folder: Path, family: TriggerFamily | None = None) -> dict[str, torch.Tensor]:
    nothing = torch.full((3, 3), math.nan)
    outcomes = ((None,) * 3,) * 3
    matrix = DistanceMatrix(nothing, nothing, nothing, outcomes, ("dark", "grey", "bright"), "unit", "fast", "patch")
    write_triggers(folder / "triggers.safetensors", Measurement(matrix, inversions), _images(), family or Patch())
    return load_file(folder / "triggers.safetensors")


def test_triggers_are_written_as_the_contract_says(tmp_path: Path) -> None:
    file = _written([FOUND, NONE, FAILED, UNIVERSAL], tmp_path)
    described = {name: (value.dtype, tuple(value.shape)) for name, value in file.items()}
    assert described == {
        "pairs": (torch.int64, (3, 2)),
        "size": (torch.float32, (3,)),
        "asr": (torch.float32, (3,)),
        "clean": (torch.uint8, (3, 3, 4, 5)),
        "stamped": (torch.uint8, (3, 3, 4, 5)),
        "trigger.mask": (torch.float32, (3, 1, 4, 5)),
        "trigger.pattern": (torch.float32, (3, 3, 4, 5)),
    }
    assert file["pairs"].tolist() == [[0, 2], [1, 0], [-1, 1]]
    assert file["size"].tolist() == pytest.approx([12.5, math.nan, 30.0], nan_ok=True)
    assert file["asr"].tolist() == pytest.approx([0.9, 0.4, 0.95])


def test_each_trigger_is_shown_on_a_sample_of_its_victim(tmp_path: Path) -> None:
    file = _written([FOUND, FAILED, UNIVERSAL], tmp_path)
    assert file["clean"][:, 0, 0, 0].tolist() == [10, 100, 10]  # every class but 1: the first image that fits
    for n, inversion in enumerate((FOUND, FAILED, UNIVERSAL)):
        mask, pattern = inversion.trigger["mask"], inversion.trigger["pattern"]
        expected = ((1 - mask) * file["clean"][n] + mask * pattern * 255).round()
        assert (file["stamped"][n].float() - expected).abs().max() <= 1
        assert torch.equal(file["trigger.mask"][n], mask)
        assert torch.equal(file["trigger.pattern"][n], pattern)


def test_triggers_too_many_for_memory_are_stamped_in_parts(tmp_path: Path) -> None:
    class Heavy(Patch):
        def stamp(self, trigger: Trigger, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("full")
            return super().stamp(trigger, images)

    inversions = [FOUND, FAILED, UNIVERSAL]
    expected = _written(inversions, tmp_path)
    assert torch.equal(_written(inversions, tmp_path, Heavy())["stamped"], expected["stamped"])


def test_a_trigger_that_is_not_finite_is_drawn_all_the_same(tmp_path: Path) -> None:
    file = _written([BROKEN], tmp_path)
    assert file["trigger.mask"].isnan().all()
    assert file["clean"].shape == file["stamped"].shape == (1, 3, 4, 5)


@pytest.mark.parametrize("inversions", [[], [NONE]])
def test_a_measurement_without_triggers_is_a_file_too(inversions: list[Inversion], tmp_path: Path) -> None:
    file = _written(inversions, tmp_path)
    assert file["pairs"].shape == (0, 2)
    assert set(file) == {"pairs", "size", "asr"}
