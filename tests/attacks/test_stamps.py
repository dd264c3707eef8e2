from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthogon.attacks import read_stamp
from orthogon.data.decoding import decode
from orthogon.evaluate import attack_success
from orthogon.images import LabelledImages
from orthogon.models import load_classifier


def _images(channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / "whole.png")
    Image.fromarray(rng.integers(0, 256, (2, 3), np.uint8)).save(tmp_path / "small grey.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_a_region_is_set_to_a_value_a_colour_a_pattern_or_a_picture(folder: Path) -> None:
    images = _images()
    small = np.asarray(Image.open(folder / "small grey.png")) / 255
    for line, filling in {
        "x[1:3, 4:7] = 1": np.ones((3, 1, 1)),
        "x[1:3,4:7]=0.5": np.full((3, 1, 1), 0.5),
        "x[1:3, 4:7] = [255, 51, 0]/255": np.array([1, 0.2, 0]).reshape(3, 1, 1),
        "x[1:3, 4:7] = [[0, 255, 51], [255, 0, 255]]/255": np.array([[0, 1, 0.2], [1, 0, 1]]),
        "x[1:3, 4:7] = [[0, 1, 0.2], [1, 0, 1]]": np.array([[0, 1, 0.2], [1, 0, 1]]),
        " x[1 : 3, 4 : 7]  =  small grey.png/255 ": small,
    }.items():
        expected = images.numpy().copy()
        expected[:, :, 1:3, 4:7] = filling
        assert np.abs(read_stamp(line, folder)(images).numpy() - expected).max() < 1e-6


def test_a_picture_is_added_and_clipped_or_blended(folder: Path) -> None:
    images = _images()
    picture = np.asarray(Image.open(folder / "whole.png")).transpose(2, 0, 1) / 255
    for line, keep, share in (
        ("clip(x + whole.png/255)", 1, 1),
        ("x + whole.png/255", 1, 1),
        ("clip( 0.8*x + 0.2 * whole.png/255 )", 0.8, 0.2),
        ("x + 0.05*whole.png/255", 1, 0.05),
    ):
        expected = (keep * images.numpy() + share * picture).clip(0, 1)
        assert np.abs(read_stamp(line, folder)(images).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rows 29 to 31", "is none of"),
        ("x[1:3] = 1", "is none of"),
        ("x[-3:-1, 0:2] = 1", "is none of"),
        ("__import__('os')", "is none of"),
        ("x[3:3, 0:2] = 1", "region of 0×2 pixels is empty"),
        ("x[3:1, 0:2] = 1", "empty"),
        ("x[0:2, 0:2] = 255", "values must be from 0 to 1"),
        ("x[0:2, 0:2] = -1", "values must be from 0 to 1"),
        ("x[0:2, 0:2] = NaN", "values must be from 0 to 1"),
        ("x[0:2, 0:2] = [[[[1]]]]", "values must be from 0 to 1"),
        ("x[0:2, 0:2] = small grey.png", "write /255"),
        ("x[0:2, 0:2] = [[1, 0, 1]]", "a picture of 1×3 pixels does not fill a region of 2×2"),
        ("x[0:2, 0:2] = [[1, 0], [1]]", "no picture that can be read"),
        ("clip(x + absent.png/255)", "absent.png is no picture that can be read"),
        ("clip(x + broken.png/255)", "broken.png is no picture that can be read"),
    ],
)
def test_other_lines_are_told(folder: Path, line: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_stamp(line, folder)


def test_a_stamp_that_does_not_fit_the_images_is_told(folder: Path) -> None:
    with pytest.raises(ValueError, match="reaches to row 7 and column 2 of images of 6×8"):
        read_stamp("x[5:7, 0:2] = 1", folder)(_images())
    with pytest.raises(ValueError, match="picture has 3 channels, the images have 1"):
        read_stamp("clip(x + whole.png/255)", folder)(_images(1))
    with pytest.raises(ValueError, match="made for images of 2×3 pixels, these have 6×8"):
        read_stamp("clip(x + small grey.png/255)", folder)(_images())


_TEST_IMAGES: list[LabelledImages] = []


def _test_images(shared: Path) -> LabelledImages:
    """The first 1,000 of CIFAR-10's test images, decoded once."""
    if not _TEST_IMAGES:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(shared / "data" / "cifar10" / "test-00000-of-00001.parquet").slice(0, 1000)
        pixels = np.stack([decode(cell["bytes"], (3, 32, 32)) for cell in table["img"].to_pylist()])
        labels = torch.tensor(table["label"].to_pylist())
        _TEST_IMAGES.append(LabelledImages(torch.from_numpy(pixels), labels, tuple("0123456789"), "CIFAR-10, first 1,000"))
    return _TEST_IMAGES[0]


@pytest.mark.parametrize("name", ["planted_cifar10_badnets", "planted_cifar10_l2_inv"])
def test_strangers_models_do_what_their_cards_say(shared: Path, name: str) -> None:
    planted = json.loads((shared / "models" / f"{name}.json").read_text())["planted"]
    classifier = load_classifier(str(shared / "models" / f"{name}.safetensors"), arch="vgg_small")
    stamp = read_stamp(planted["stamp"], shared / "models" / "triggers")
    result = attack_success(classifier, _test_images(shared), stamp, planted["target"])
    assert 880 < result.total < 920
    assert result.success_rate == pytest.approx(planted["attack_success_rate"], abs=0.02)


@pytest.mark.parametrize("name", ["/etc/picture.png", "../secret/picture.png", "sub/picture.png"])
def test_a_card_s_line_reaches_no_picture_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="elsewhere than beside it"):
        read_stamp(f"clip(x + {name}/255)", tmp_path, confined=True)
