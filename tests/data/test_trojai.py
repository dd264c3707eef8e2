from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthogon.data import open_images
from orthogon.data.errors import DataError
from orthogon.data.trojai import examples_beside, examples_digest, examples_of, read_config


def picture(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with two pictures of class 0, one of class 10, none of the others."""
    for seed, name in enumerate(("class_0_example_0", "class_0_example_1", "class_10_example_0")):
        picture(tmp_path / "clean_example_data" / f"{name}.png", 8, 10, seed)
    (tmp_path / "clean_example_data" / "notes.txt").write_text("no picture")
    (tmp_path / "model.pt").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("place", ["", "clean_example_data"])
def test_labels_come_from_the_names_and_pictures_stay_as_they_are(model: Path, place: str) -> None:
    images = open_images(str(model / place))
    assert images.labels.tolist() == [0, 0, 10]
    assert images.classes == tuple(map(str, range(11)))
    expected = np.random.default_rng(2).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    assert torch.equal(images.pixels[2], torch.from_numpy(expected).permute(2, 0, 1))


@pytest.mark.parametrize("key", ["CNN_IMG_SIZE_PIXELS", "cnn_img_size_pixels"])
def test_the_middle_is_cut_out_never_stretched(model: Path, key: str) -> None:
    (model / "config.json").write_text(json.dumps({key: 4, "NUMBER_CLASSES": 12}))
    images = open_images(str(model))
    expected = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)[2:6, 3:7]
    assert torch.equal(images.pixels[0], torch.from_numpy(expected).permute(2, 0, 1))
    assert len(images.classes) == 12
    assert "the middle 4×4 of 10×8" in images.source
    asked = open_images(str(model), image_shape=(3, 6, 6), classes=[f"sign {i}" for i in range(12)])
    assert asked.image_shape == (3, 6, 6)
    assert asked.classes[0] == "sign 0"


def test_pictures_of_256_are_cut_to_what_round_4_takes(tmp_path: Path) -> None:
    pixels = picture(tmp_path / "class_0_example_0.png", 256, 256)
    images = open_images(str(tmp_path))
    assert torch.equal(images.pixels[0], torch.from_numpy(pixels[16:240, 16:240]).permute(2, 0, 1))


def test_what_does_not_fit_is_told(model: Path) -> None:
    with pytest.raises(DataError, match="cannot be cut out"):
        open_images(str(model), image_shape=(3, 9, 9))
    (model / "config.json").write_text('{"NUMBER_CLASSES": 5}')
    with pytest.raises(DataError, match="beside it tells of 5 classes only"):
        open_images(str(model))
    (model / "config.json").write_text("[1]")
    with pytest.raises(DataError, match="must hold a JSON object"):
        read_config(model / "config.json")
    (model / "config.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        open_images(str(model))


def test_a_stranger_cannot_ask_for_classes_without_end(model: Path) -> None:
    (model / "config.json").write_text('{"number_classes": 20000000}')
    with pytest.raises(DataError, match=r"config\.json tells of 20000000 classes"):
        open_images(str(model))
    (model / "config.json").write_text(f'{{"number_classes": {"9" * 5000}}}')
    with pytest.raises(DataError, match="not JSON"):
        open_images(str(model))
    (model / "config.json").unlink()
    for number in ("100000", "99999999999999999999"):
        picture(model / "clean_example_data" / f"class_{number}_example_0.png", 8, 10)
        with pytest.raises(DataError, match=rf"class_{number}_example_0\.png is a picture of class {number}, at most 99999"):
            open_images(str(model))
        (model / "clean_example_data" / f"class_{number}_example_0.png").unlink()


def test_the_digest_is_of_all_that_is_read(model: Path) -> None:
    seen = [examples_digest(model)]
    assert examples_digest(model / "clean_example_data") == seen[0]
    (model / "clean_example_data" / "notes.txt").write_text("still no picture")
    assert examples_digest(model) == seen[0]
    (model / "config.json").write_text("{}")
    seen.append(examples_digest(model))
    (model / "clean_example_data" / "class_0_example_1.png").rename(model / "clean_example_data" / "class_1_example_1.png")
    seen.append(examples_digest(model))
    picture(model / "clean_example_data" / "class_0_example_0.png", 8, 10, seed=9)
    seen.append(examples_digest(model))
    assert len(set(seen)) == 4


def test_other_folders_are_left_to_others(tmp_path: Path, model: Path) -> None:
    picture(tmp_path / "classes" / "cat" / "class_0_example_0.png", 4, 4)
    picture(tmp_path / "classes" / "dog" / "1.png", 4, 4)
    assert open_images(str(tmp_path / "classes")).classes == ("cat", "dog")
    assert examples_of(tmp_path / "classes") is None
    assert examples_beside(model / "model.pt") == model / "clean_example_data"
    assert examples_beside(model / "nothing.pt") is None
