"""The built-in signs."""

from __future__ import annotations

import pytest
import torch

from orthogon.data import DataError, open_images, signs
from orthogon.data.sign_kinds import NAMES, kinds


def test_forty_five_distinct_names_and_drawings() -> None:
    assert len(set(NAMES)) == 45
    table = kinds(45)
    drawings = torch.cat([table.colours.flatten(1), table.planes.flatten(1), table.strokes.flatten(1)], 1)
    assert len(drawings.unique(dim=0)) == 45
    assert (torch.cdist(drawings, drawings) + 9 * torch.eye(45)).min() > 0.2


@pytest.mark.parametrize(("classes", "size", "per_class"), [(2, 16, 1), (10, 32, 7), (45, 33, 2), (5, 96, 3)])
def test_shape_labels_and_range(classes: int, size: int, per_class: int) -> None:
    made = signs(classes, size, per_class)
    assert made.pixels.shape == (classes * per_class, 3, size, size)
    assert made.counts() == [per_class] * classes
    assert made.labels[:classes].tolist() == list(range(classes))
    assert made.classes == NAMES[:classes]
    assert made.pixels.float().flatten(1).std(1).min() > 0.5  # no picture is blank


def test_the_seed_decides_and_more_images_change_nothing() -> None:
    few, many = signs(3, 16, 5, seed=4), signs(3, 16, 60, seed=4)
    assert torch.equal(few.pixels, many.pixels[: len(few)])
    assert few.digest() == signs(3, 16, 5, seed=4).digest()
    assert few.digest() != signs(3, 16, 5, seed=5).digest()
    assert few.digest() != signs(3, 16, 5, seed=4, split="train").digest()
    assert len(many.pixels.flatten(1).unique(dim=0)) == len(many)


def test_a_linear_look_at_colour_and_shape_beats_chance_clearly() -> None:
    """The classes can be seen: nearest mean of small pictures, far above one in ten, and far from all right."""
    small = [
        torch.nn.functional.avg_pool2d(signs(10, 16, n, split=s).floats(), 2).flatten(1) for n, s in ((40, "train"), (20, "test"))
    ]
    train, test = (part - part.mean(1, keepdim=True) for part in small)
    means = torch.stack([train[c::10].mean(0) for c in range(10)])
    found = torch.cdist(test, means).argmin(1)
    accuracy = (found == torch.arange(len(test)) % 10).float().mean()
    assert 0.2 < accuracy < 0.9


def test_specs() -> None:
    made = open_images("signs:classes=5,size=16,per_class=3,seed=2", split="train")
    assert made.digest() == signs(5, 16, 3, seed=2, split="train").digest()
    assert "signs" in made.source
    assert open_images("signs", limit=2, seed=1).digest() == signs(10, 32, 2, seed=1).digest()
    grey = open_images("signs:per_class=2", image_shape=(1, 24, 24))
    assert grey.image_shape == (1, 24, 24)
    assert len(open_images("signs:per_class=50", memory=20 * 3072)) == 20
    turned = open_images("signs:classes=3,per_class=1", classes=NAMES[:4][::-1])
    assert turned.labels.tolist() == [3, 2, 1]
    assert NAMES[3] in turned.source


@pytest.mark.parametrize(
    "spec",
    ["signs:classes=1", "signs:classes=46", "signs:size=8", "signs:per_class=0", "signs:colour=3", "signs:size=big"],
)
def test_wrong_specs(spec: str) -> None:
    with pytest.raises(DataError, match="signs"):
        open_images(spec)


def test_wrong_arguments() -> None:
    with pytest.raises(DataError, match="train and test"):
        signs(split="validation")
    with pytest.raises(DataError, match="square"):
        open_images("signs", image_shape=(3, 16, 32))
    with pytest.raises(DataError, match="limit"):
        open_images("signs", limit=0)
