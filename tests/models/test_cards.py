"""Cards: what they say is used, what is given wins, what is wrong is told; round trips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torchvision.models
from torch import nn

from orthogon.classifier import Classifier, Normalization
from orthogon.models import DownloadError, build, load_classifier, parse_normalization, read_card, save_classifier

SHAPE = (3, 32, 32)
CARD: dict[str, Any] = {
    "architecture": "vgg_small",
    "normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]},
    "classes": ["ant", "bee", "cat"],
    "image_shape": [3, 32, 32],
    "accuracy": 0.9,
}


@pytest.fixture
def net(tmp_path: Path) -> Path:
    safetensors.torch.save_file(build("vgg_small", 3, SHAPE).state_dict(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def _card(net: Path, **changes: Any) -> None:
    card = {key: value for key, value in {**CARD, **changes}.items() if value != "absent"}
    net.with_suffix(".json").write_text(json.dumps(card))


def test_card_fills_in(net: Path) -> None:
    _card(net)
    classifier = load_classifier(str(net))
    assert classifier.classes == ("ant", "bee", "cat")
    assert classifier.image_shape == SHAPE
    assert classifier.normalization == Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert classifier.card["accuracy"] == 0.9
    assert not classifier.training


def test_arguments_win(net: Path) -> None:
    _card(net)
    classifier = load_classifier(str(net), normalization="none", classes=["a", "b", "c"], image_shape=(3, 40, 40))
    assert classifier.normalization is None
    assert classifier.classes == ("a", "b", "c")
    assert classifier.image_shape == (3, 40, 40)
    assert classifier.card["normalisation"] is None


def test_both_spellings_and_null(net: Path) -> None:
    _card(net, normalisation="absent", normalization=CARD["normalisation"])
    assert load_classifier(str(net)).normalization == Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    _card(net, normalisation=None)
    assert load_classifier(str(net)).normalization is None


def test_prose_needs_an_architecture(net: Path) -> None:
    _card(net, architecture="small VGG: conv widths …")
    with pytest.raises(ValueError, match=r"small VGG.*give --arch, one of resnet20"):
        load_classifier(str(net))
    assert load_classifier(str(net), arch="vgg_small").card["architecture_description"] == "small VGG: conv widths …"


def test_a_card_never_names_code(net: Path, tmp_path: Path) -> None:
    created = tmp_path / "created"
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(created)!r}).touch()\n")
    _card(net, architecture=f"{tmp_path / 'evil.py'}:net")
    with pytest.raises(ValueError, match="not a name that is taken from a card"):
        load_classifier(str(net))
    assert not created.exists()


def test_no_card_and_no_architecture(net: Path) -> None:
    with pytest.raises(ValueError, match="give --arch"):
        load_classifier(str(net))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": 3}, "architecture must be a string"),
        ({"normalisation": [0.5]}, "mean and std"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, "above 0"),
        ({"normalisation": {"mean": ["x"], "std": [1.0]}}, "could not convert"),
        ({"normalisation": {"mean": [0.5, 0.5], "std": [0.5, 0.5]}}, "2 channels, the images have 3"),
        ({"classes": "abc"}, "classes must be a list"),
        ({"classes": ["a", "b"]}, "last layer has 3 outputs, vgg_small was to be built for 2"),
        ({"image_shape": [32, 32]}, "image_shape must be"),
        ({"image_shape": [3, 5000, 32]}, "a side above 4096"),
        ({"normalisation": {"mean": [float("nan")], "std": [1.0]}}, "finite means"),
        ({"normalisation": {"mean": [0.5], "std": [float("inf")]}}, "above 0 and finite"),
    ],
)
def test_wrong_cards(net: Path, change: dict[str, Any], message: str) -> None:
    _card(net, **change)
    with pytest.raises(ValueError, match=message):
        load_classifier(str(net))


@pytest.mark.parametrize("text", ["{", "[1]", "\ufffe"])
def test_cards_that_are_no_cards(tmp_path: Path, text: str) -> None:
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match="card"):
        read_card(tmp_path / "card.json")


def test_words_for_normalization(tmp_path: Path) -> None:
    assert parse_normalization("none") is None
    assert parse_normalization("0.5,0.4,0.3/0.2,0.2,0.1") == Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert parse_normalization("0.5/0.25") == Normalization((0.5,), (0.25,))
    for name in ("imagenet", "CIFAR10"):
        found = parse_normalization(name)
        assert found is not None
        assert len(found.mean) == 3
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    assert parse_normalization(str(tmp_path / "card.json")) == Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="says nothing about normalisation"):
        parse_normalization(str(tmp_path / "card.json"))
    with pytest.raises(FileNotFoundError):
        parse_normalization(str(tmp_path / "none.json"))


@pytest.mark.parametrize("text", ["", "0.5", "a/b", "0.5,0.5/0.1", "0.5/0", "imagenet21k"])
def test_wrong_words_for_normalization(text: str) -> None:
    with pytest.raises(ValueError, match="normalization"):
        parse_normalization(text)


@pytest.mark.parametrize("arch", ["resnet20", "timm:resnet10t", "torchvision:squeezenet1_1"])
def test_round_trip(tmp_path: Path, arch: str) -> None:
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    network = build(arch, 3, (3, 64, 64))
    before = Classifier(network, list("abc"), (3, 64, 64), normalization, {"architecture": arch}).eval()
    save_classifier(before, tmp_path / "out" / "model.safetensors", {"accuracy": 0.5, "provenance": "a test"})
    after = load_classifier(str(tmp_path / "out" / "model.safetensors"))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(after(images), before(images), rtol=0, atol=0)
    assert (after.classes, after.image_shape, after.normalization) == (("a", "b", "c"), (3, 64, 64), normalization)
    assert after.card["accuracy"] == 0.5
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.safetensors", "model.json"}


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    classifier = Classifier(nn.Flatten(), ["a", "b"], (2, 1, 1))
    with pytest.raises(ValueError, match="name of the architecture"):
        save_classifier(classifier, tmp_path / "model.safetensors", {})
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        save_classifier(classifier, tmp_path / "model.pt", {})
    assert not list(tmp_path.iterdir())


def test_libraries_bring_normalization_and_size(tmp_path: Path) -> None:
    safetensors.torch.save_file(build("timm:resnet10t", 3, (3, 64, 64)).state_dict(), tmp_path / "net.safetensors")
    classifier = load_classifier(str(tmp_path / "net.safetensors"), arch="timm:resnet10t")
    assert classifier.image_shape == (3, 176, 176)
    assert classifier.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torchvision.models.get_model
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: real(name, weights=None))
    classifier = load_classifier("torchvision:squeezenet1_1", image_shape=(3, 64, 64))
    assert classifier.classes[0] == "tench"
    assert classifier.card["architecture"] == "torchvision:squeezenet1_1"
    with pytest.raises(ValueError, match="contradicts"):
        load_classifier("torchvision:squeezenet1_1", arch="resnet20")


@pytest.mark.parametrize(
    ("library", "maker", "model"),
    [(timm, "create_model", "timm:resnet18"), (torchvision.models, "get_model", "torchvision:resnet18")],
)
def test_no_network(monkeypatch: pytest.MonkeyPatch, library: Any, maker: str, model: str) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(library, maker, offline)
    with pytest.raises(DownloadError, match=f"weights of {model}: Name or service not known.*local checkpoint.*architecture"):
        load_classifier(model)


def test_lists_within_lists_are_no_card(tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text('{"classes": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="too deep"):
        read_card(tmp_path / "net.json")
