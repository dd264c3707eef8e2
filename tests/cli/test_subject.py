"""A classifier and its images from words, each read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from orthogon.cli import subject
from orthogon.cli.subject import open_subject
from orthogon.cli.words import ImageWords, ModelWords
from orthogon.data import DataError

CODE = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 7, classes))
"""


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A model of three classes that does not tell its images' size, pictures of them; lists each reading of the pictures."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(CODE)
    layer = nn.Linear(3 * 5 * 7, 3)
    save_file({f"1.{name}": tensor for name, tensor in layer.state_dict().items()}, "net.safetensors")
    pictures("images", "ant", "bee", "cat")
    read = []

    def watched(*words: Any, **more: Any) -> Any:
        read.append((words, more))
        return opened(*words, **more)

    opened = subject.open_images
    monkeypatch.setattr(subject, "open_images", watched)
    return read


def pictures(folder: str, *names: str) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in names:
        Path(folder, name).mkdir(parents=True)
        for number in range(4):
            pixels = torch.randint(256, (5, 7, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(Path(folder, name, f"{number}.png"))


def test_images_that_tell_the_size_are_read_once(reads: list[Any]) -> None:
    classifier, images = open_subject(ModelWords("net.safetensors", "nets.py:make"), ImageWords("images"), 0)
    assert (classifier.image_shape, classifier.classes) == ((3, 5, 7), ("ant", "bee", "cat"))
    assert images.counts() == [4, 4, 4]
    assert len(reads) == 1


def test_the_names_of_a_card_bring_them_into_order(reads: list[Any]) -> None:
    Path("net.json").write_text(json.dumps({"classes": ["cat", "ant", "bee"]}))
    words = ImageWords("images", subset="per-class:2")
    classifier, images = open_subject(ModelWords("net.safetensors", "nets.py:make"), words, 0)
    assert len(reads) == 1
    assert images.classes == classifier.classes == ("cat", "ant", "bee")
    _, told = open_subject(
        ModelWords("net.safetensors", "nets.py:make"), ImageWords("images", subset=words.subset, image_size="5x7"), 0
    )
    assert images.digest() == told.digest()


def test_some_classes_by_number_are_read_once(reads: list[Any]) -> None:
    pictures("some", "0", "2")
    classifier, images = open_subject(ModelWords("net.safetensors", "nets.py:make"), ImageWords("some"), 0)
    assert len(reads) == 1
    assert images.classes == classifier.classes == ("0", "1", "2")
    assert images.counts() == [4, 0, 4]
    assert "no images of 1" in images.source


def test_classes_that_do_not_fit_are_told(reads: list[Any]) -> None:
    pictures("others", "ant", "bee")
    with pytest.raises(DataError, match="the data have 2 classes, the model 3"):
        open_subject(ModelWords("net.safetensors", "nets.py:make"), ImageWords("others"), 0)


def test_repeated_names_of_a_card_are_told(reads: list[Any]) -> None:
    Path("net.json").write_text(json.dumps({"classes": ["cat", "cat", "bee"]}))
    with pytest.raises(DataError, match="the model's class names must differ, cat stands there more than once; mend its card"):
        open_subject(ModelWords("net.safetensors", "nets.py:make"), ImageWords("images"), 0)
