"""Networks that others made: they load strictly and reach what their cards say, on the real test images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from orthogon.models import load_classifier

parquet = pytest.importorskip("pyarrow.parquet")

_IMAGES: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}


def _images(shared: Path, data: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` test images spread over the file, in [0, 1], with their labels; decoded once."""
    if (data, count) not in _IMAGES:
        table = parquet.read_table(shared / "data" / data / "test-00000-of-00001.parquet")
        rows = torch.linspace(0, table.num_rows - 1, count).long().tolist()
        table = table.take(rows)
        key = "img" if "img" in table.column_names else "image"
        pictures = [Image.open(io.BytesIO(cell["bytes"])).convert("RGB") for cell in table[key].to_pylist()]
        pixels = torch.stack([pil_to_tensor(picture) for picture in pictures]).float() / 255
        _IMAGES[data, count] = pixels, torch.tensor(table["label"].to_pylist())
    return _IMAGES[data, count]


def _accuracy(shared: Path, name: str, arch: str, data: str, count: int) -> float:
    classifier = load_classifier(str(shared / "models" / f"{name}.safetensors"), arch=arch)
    pixels, labels = _images(shared, data, count)
    with torch.no_grad():
        hits = [(classifier(x).argmax(1) == y).sum() for x, y in zip(pixels.split(500), labels.split(500), strict=True)]
    return int(torch.stack(hits).sum()) / count


@pytest.mark.parametrize(
    ("name", "arch", "data"),
    [
        ("moth_resnet20_nat", "moth_resnet20", "cifar10"),  # exactly 0.9152 on all 10,000, which takes long
        ("clean_cifar10_resnet20", "resnet20", "cifar10"),
        ("planted_cifar10_badnets", "vgg_small", "cifar10"),
        ("planted_cifar10_grid_wrn", "wrn16_1", "cifar10"),
        ("planted_cifar10_l2_inv", "vgg_small", "cifar10"),
        ("planted_cifar10_trojan_sq", "vgg_small", "cifar10"),
        ("planted_gtsrb_badnets", "vgg_small", "gtsrb"),
        ("planted_gtsrb_trojan_wm", "vgg_small", "gtsrb"),
    ],
)
def test_accuracy_of_the_card(shared: Path, name: str, arch: str, data: str) -> None:
    stated = json.loads((shared / "models" / f"{name}.json").read_text())["test_accuracy"]
    spread = (stated * (1 - stated) / 1000) ** 0.5
    assert _accuracy(shared, name, arch, data, 1000) == pytest.approx(stated, abs=4 * spread)


def test_a_card_in_prose_asks_for_the_architecture(shared: Path) -> None:
    with pytest.raises(ValueError, match="moth_resnet20"):
        load_classifier(str(shared / "models" / "moth_resnet20_nat.safetensors"))
