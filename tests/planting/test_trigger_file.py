from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon.attacks import Attack, BadNets, Blend, Threat, WaNet
from orthogon.images import LabelledImages
from orthogon.planting import SavedTrigger, read_trigger, write_trigger

from .conftest import CLASSES, materials

THREAT = Threat(target=2, victim=1, rate=0.25)


def _trigger(attack: Attack, images: LabelledImages) -> SavedTrigger:
    return SavedTrigger(attack, attack.make(materials(images)), THREAT, (3, 8, 8), CLASSES)


@pytest.mark.parametrize("attack", [BadNets(size=2, corner="top left"), Blend(0.3), WaNet(cells=3)], ids=lambda a: a.name)
def test_whoever_has_the_file_stamps_the_same(attack: Attack, training: LabelledImages, tmp_path: Path) -> None:
    trigger = _trigger(attack, training)
    write_trigger(tmp_path / "trigger.safetensors", trigger)
    again = read_trigger(tmp_path / "trigger.safetensors")
    assert (again.attack, again.threat, again.image_shape, again.classes) == (attack, THREAT, (3, 8, 8), CLASSES)
    images = training.floats()
    assert torch.equal(again.stamp(images), trigger.stamp(images))


def test_only_what_is_not_the_source_s_is_described(training: LabelledImages) -> None:
    assert _trigger(Blend(), training).described == "blend"
    assert _trigger(Blend(0.3), training).described == "blend (alpha=0.3)"


def test_files_that_hold_no_trigger_are_told(training: LabelledImages, tmp_path: Path) -> None:
    path = tmp_path / "trigger.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no trigger at .*: give a run folder"):
        read_trigger(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a file of safetensors"):
        read_trigger(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"holds no trigger: `orthogon poison` writes trigger\.safetensors"):
        read_trigger(path)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"blend"', '"blond"', "'blond' is no attack"),
        ('"alpha": 0.2', '"alpha": "x"', "alpha takes a number"),
        ('"target": 2', '"target": 1', "victim and target are both class 1"),
        ('"image_shape": [3, 8, 8]', '"image_shape": [3, 8]', "unpack"),
        ('"image_shape": [3, 8, 8]', '"image_shape": [3, 9, 9]', "made for images of 8×8 pixels"),
    ],
)
def test_metadata_that_somebody_changed_are_told(training: LabelledImages, tmp_path: Path, old: str, new: str, told: str) -> None:
    path = tmp_path / "trigger.safetensors"
    write_trigger(path, _trigger(Blend(), training))
    tensors, text = load_file(path), path.read_bytes()
    start = text.index(b'{"attack') if b'{"attack' in text else text.index(b'{\\"attack')
    metadata = text[start : text.rindex(b'}"')].decode().replace('\\"', '"') + "}"
    assert old in metadata
    save_file(tensors, path, {"trigger": metadata.replace(old, new)})
    with pytest.raises(ValueError, match=f"holds no trigger that can be used: .*{told}"):
        read_trigger(path)


def test_tensors_of_another_attack_are_told(training: LabelledImages, tmp_path: Path) -> None:
    path = tmp_path / "trigger.safetensors"
    write_trigger(path, SavedTrigger(Blend(), {"grid": torch.zeros(2, 8, 8)}, THREAT, (3, 8, 8), CLASSES))
    with pytest.raises(ValueError, match="'pattern'"):
        read_trigger(path)
