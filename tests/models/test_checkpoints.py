"""Checkpoints of weights: formats, nesting, prefixes, and everything that can be wrong with them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from orthogon.models import CheckpointError, build, load_classifier
from orthogon.models.checkpoint import read_checkpoint
from orthogon.models.weights import check_finite

Weights = dict[str, torch.Tensor]
SHAPE = (3, 32, 32)


@pytest.fixture
def weights() -> Weights:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in build("wrn16_1", 6, SHAPE).state_dict().items()}


def _logits(path: Path, **words: Any) -> torch.Tensor:
    classifier = load_classifier(str(path), arch="wrn16_1", **words)
    with torch.no_grad():
        return classifier(torch.linspace(0, 1, 3 * 32 * 32).view(1, *SHAPE))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {"net": {f"module.{k}": v for k, v in w.items()}, "acc": np.float64(0.9)},
        lambda w: {"model_state_dict": {f"_orig_mod.module.{k}": v for k, v in w.items()}},
        lambda w: {f"module.module.{k}": v for k, v in w.items()},
        lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
        lambda w: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in w.items()},
        lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["plain", "nested", "twice", "net", "compiled", "module", "half", "parameters", "no counters"],
)
def test_forms_of_pickled_weights(weights: Weights, tmp_path: Path, wrap: Callable[[Weights], Any]) -> None:
    torch.save(weights, tmp_path / "plain.pt")
    torch.save(wrap(weights), tmp_path / "other.pth")
    torch.save(wrap(weights), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    expected = _logits(tmp_path / "plain.pt")
    assert expected.dtype == torch.float32
    assert expected.shape == (1, 6)
    for name in ("other.pth", "old.bin"):
        torch.testing.assert_close(_logits(tmp_path / name), expected, rtol=0.02, atol=0.02)


def test_safetensors(weights: Weights, tmp_path: Path) -> None:
    safetensors.torch.save_file({f"module.{k}": v for k, v in weights.items()}, tmp_path / "net.safetensors")
    torch.save(weights, tmp_path / "net.pt")
    torch.testing.assert_close(_logits(tmp_path / "net.safetensors"), _logits(tmp_path / "net.pt"), rtol=0, atol=0)


def test_missing_unexpected_and_misshapen_names_are_listed(weights: Weights, tmp_path: Path) -> None:
    del weights["bn1.weight"]
    weights["extra.thing"] = torch.zeros(1)
    weights["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError) as caught:
        _logits(tmp_path / "net.pt")
    message = str(caught.value)
    assert "1 missing: bn1.weight" in message
    assert "1 unexpected: extra.thing" in message
    assert "1 misshapen: conv1.weight is (16, 3, 5, 5), needed (16, 3, 3, 3)" in message


def test_long_lists_are_cut(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more; \d+ unexpected: .* and \d+ more"):
        load_classifier(str(tmp_path / "net.pt"), arch="resnet20")


def test_wrong_class_count_is_told(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"last layer has 6 outputs, wrn16_1 was to be built for 10 classes"):
        _logits(tmp_path / "net.pt", classes=[str(i) for i in range(10)])


@pytest.mark.parametrize("arch", ["nin", "vgg_small", "lisa_cnn", "resnet20", "timm:resnet18", "torchvision:resnet18"])
def test_class_count_is_inferred(tmp_path: Path, arch: str) -> None:
    safetensors.torch.save_file(build(arch, 13, SHAPE).state_dict(), tmp_path / "net.safetensors")
    classifier = load_classifier(str(tmp_path / "net.safetensors"), arch=arch, image_shape=SHAPE)
    assert classifier.classes == tuple(str(i) for i in range(13))
    assert not classifier.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(weights: Weights, tmp_path: Path, value: float) -> None:
    weights["fc.bias"][2] = value
    torch.save(weights, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"NaN or infinite numbers in 1 tensors: fc\.bias"):
        _logits(tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "old.pt"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_files_cut_short(weights: Weights, tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=name != "old.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=name):
        _logits(path)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_files_of_noise(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(CheckpointError, match=name):
        _logits(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds no weights by name"),
        ({"epoch": 3, "weights": {}}, "it has epoch, weights"),
        ({"model": {"lr": 0.1}}, "it has lr"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=message):
        _logits(tmp_path / "net.pt")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        _logits(tmp_path / "net.pt")
    (tmp_path / "net.onnx").touch()
    with pytest.raises(CheckpointError, match="not a kind of file"):
        _logits(tmp_path / "net.onnx")


def test_tensors_that_repeat_what_they_store_are_refused(weights: Weights, tmp_path: Path) -> None:
    """Kilobytes in the file, a gigabyte in memory."""
    name = next(iter(weights))
    torch.save({**weights, name: torch.zeros(1).expand(2**14, 2**14)}, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").stat().st_size < 2**24
    with pytest.raises(CheckpointError, match=r"misshapen|repeat what they store"):
        load_classifier(str(tmp_path / "net.pt"), arch="resnet20")
    with pytest.raises(CheckpointError, match=f"1 tensors repeat what they store: {name}"):
        check_finite({name: torch.zeros(1).expand(2**14, 2**14)}, "net.pt")
    check_finite({name: torch.zeros(1).expand(2**10, 2**10)}, "net.pt")  # a small one, as position tables may be


def test_archives_that_swell_are_refused(weights: Weights, tmp_path: Path) -> None:
    torch.save({"large": torch.zeros(2**26)}, tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as stored, zipfile.ZipFile(tmp_path / "net.pt", "w") as packed:
        for record in stored.infolist():
            packed.writestr(record, stored.read(record), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "net.pt").stat().st_size < 2**20
    with pytest.raises(CheckpointError, match=r"unpack to 0\.3 GiB"):
        read_checkpoint(tmp_path / "net.pt")
    assert read_checkpoint(tmp_path / "stored.pt")
