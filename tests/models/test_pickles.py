"""Whole pickled networks: those of known layers load, and no file gets its own code run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from torch import nn

from orthogon.models import CheckpointError, load_classifier
from orthogon.models.pickled import MODULES, check


class Creates:
    """Unpickled by a careless reader, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return _create, (str(self.path),)


def _create(path: str) -> None:
    Path(path).touch()


class OwnLayer(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _with_attribute(value: Any) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    network[1].extra = value
    return network


def _with_hook(hook: Any) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    network[1].register_forward_hook(hook)
    return network


@pytest.mark.parametrize(
    "make",
    [
        lambda c: c,
        lambda c: {"state_dict": {"conv1.weight": torch.zeros(1), "extra": c}},
        lambda c: {"model": _with_attribute(c)},
        lambda c: _with_attribute(c),
        lambda c: [c],
    ],
    ids=["bare", "in weights", "nested module", "attribute", "list"],
)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("arch", [None, "resnet20"])
def test_code_in_a_pickle_never_runs(tmp_path: Path, make: Callable[[Any], Any], zipped: bool, arch: str | None) -> None:
    created = tmp_path / "created"
    path = tmp_path / "net.pt"
    torch.save(make(Creates(created)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        load_classifier(str(path), arch=arch, image_shape=(3, 2, 2))
    assert not created.exists()


def test_the_trap_itself_works(tmp_path: Path) -> None:
    torch.save(Creates(tmp_path / "created"), tmp_path / "net.pt")
    torch.load(tmp_path / "net.pt", weights_only=False)
    assert (tmp_path / "created").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickle_with_code(tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(Creates(tmp_path / "created")))
    with pytest.raises(CheckpointError, match=r"net.pkl"):
        load_classifier(str(tmp_path / "net.pkl"), arch="resnet20")
    assert not (tmp_path / "created").exists()


def test_refusal_names_the_class_and_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Sequential(OwnLayer()), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"OwnLayer.*any code.*convert it once yourself.*safetensors") as caught:
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 2, 2))
    assert "refused" in str(caught.value)


def test_no_error_advises_to_unpickle_freely_what_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "page.pt"
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match="corrupt, or not a PyTorch checkpoint") as raised:
        load_classifier(str(path), arch="resnet20", classes=("a", "b"))
    assert "weights_only" not in str(raised.value)


def test_system_calls_are_refused_by_name(tmp_path: Path) -> None:
    body = b"cposix\nsystem\n(S'touch " + str(tmp_path / "created").encode() + b"'\ntR."
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/data.pkl", body)
        archive.writestr("net/version", "3\n")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        load_classifier(str(tmp_path / "net.pt"), arch="resnet20")
    assert not (tmp_path / "created").exists()


@pytest.mark.parametrize("hook", [nn.Identity(), print, _create])
def test_hooks_are_refused(tmp_path: Path, hook: Any) -> None:
    torch.save(_with_hook(hook), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: vars(n[1]).update(forward=nn.Identity()), "1.forward is a Identity"),
        (lambda n: vars(n[1]).update(_compiled_call_impl=nn.Identity()), "plain data"),
        (lambda n: vars(n[1]).update(extra={"a": [nn.Identity()]}), "1.extra"),
        (lambda n: n[1].register_forward_pre_hook(nn.Identity()), "carries a hook"),
        (lambda n: n[1].register_full_backward_hook(nn.Identity()), "carries a hook"),
        (lambda n: n[1].register_state_dict_post_hook(nn.Identity()), "carries a hook"),
        (lambda n: n[1].weight.register_hook(nn.Identity()), "1.weight is not a plain tensor"),
        (lambda n: setattr(n[1].weight, "detach", nn.Identity()), "1.weight is not a plain tensor"),
        (lambda n: n.append(OwnLayer()), "OwnLayer, not a layer"),
        (lambda n: vars(n[1]).update(_modules=nn.Identity()), "children"),
        (lambda n: vars(n[1]).update(_parameters=None), "_parameters"),
        (lambda n: vars(n[1]).update(_forward_hooks=torch.ones(2)), "carries a hook"),
        (lambda n: vars(n[1]).update(train=5), "1.train stands in the place of a method"),
    ],
)
def test_check_looks_into_the_objects(change: Callable[[Any], None], message: str) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert check(network) is None
    change(network)
    assert message in str(check(network))


def test_check_ends_on_a_network_that_contains_itself() -> None:
    network = nn.Sequential(nn.Flatten())
    network._modules["loop"] = network
    assert check(network) is None


def test_check_ends_on_lists_that_share_their_parts() -> None:
    """Sixty lists, each twice in the next: 2 to the 60 places, 60 objects."""
    layer, nested = nn.ReLU(), list[Any]()
    for _ in range(60):
        nested = [nested, nested]
    layer.note = nested  # pyright: ignore[reportArgumentType]
    assert check(layer) is None
    layer.note = [nested, object()]  # pyright: ignore[reportArgumentType]
    assert check(layer) == "the network.note is a list, not plain data"
    nested.append(nested)
    layer.note = nested  # pyright: ignore[reportArgumentType]
    assert check(layer) is None


def test_no_listed_class_changes_how_it_is_unpickled_into_running_code() -> None:
    """Only these restore themselves in their own way; each was read, and runs nothing that it is given."""
    plain = nn.Module.__setstate__
    own = {c.__name__ for c in MODULES if c.__setstate__ is not plain and "Conv" not in c.__name__}
    assert own == {"MultiheadAttention", "Softmin", "Softmax", "LogSoftmax", "AvgPool3d", "Upsample"} | (
        {"UpsamplingNearest2d", "UpsamplingBilinear2d"}
    )
    assert all("__reduce__" not in vars(c) and "__reduce_ex__" not in vars(c) for c in MODULES)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_whole_torchvision_networks(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=5).eval()
    torch.save(network, tmp_path / "net.pt")
    classifier = load_classifier(str(tmp_path / "net.pt"), normalization="imagenet", image_shape=(3, 64, 64))
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), network((images - mean) / std))
    assert len(classifier.classes) == 5


def test_whole_vit(tmp_path: Path) -> None:
    """It carries a functools.partial, which is left behind."""
    network = torchvision.models.VisionTransformer(32, 16, 1, 2, 8, 16, num_classes=3).eval()
    torch.save(network, tmp_path / "net.pt")
    classifier = load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), network(images))


def test_whole_network_as_weights_of_an_architecture(tmp_path: Path) -> None:
    network = torchvision.models.squeezenet1_1(num_classes=4)
    torch.save({"model": network}, tmp_path / "net.pt")
    classifier = load_classifier(str(tmp_path / "net.pt"), arch="torchvision:squeezenet1_1", image_shape=(3, 64, 64))
    assert classifier.card["architecture"] == "torchvision:squeezenet1_1"
    torch.testing.assert_close(classifier.network.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_names_of_old_torchvision(tmp_path: Path) -> None:
    """TrojAI's first rounds hold networks pickled when MobileNetV2 lived in another file."""
    torch.save(torchvision.models.mobilenet_v2(num_classes=3).eval(), tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "net.pt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"torchvision.models.mobilenetv2\n", b"torchvision.models.mobilenet\n")
                content = content.replace(
                    b"torchvision.ops.misc\nConv2dNormActivation\n", b"torchvision.models.mobilenet\nConvBNReLU\n"
                )
                assert b"mobilenetv2\n" not in content
            old.writestr(name, content)
    assert len(load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 64, 64)).classes) == 3


def test_nan_in_a_whole_network(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    nn.init.constant_(network[1].weight, float("nan"))
    torch.save(network, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"1\.weight"):
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 2, 2))


def test_image_shape_must_be_known(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="give the image shape"):
        load_classifier(str(tmp_path / "net.pt"))
    with pytest.raises(ValueError, match=r"cannot take images of shape \(3, 5, 5\)"):
        load_classifier(str(tmp_path / "net.pt"), image_shape=(3, 5, 5))
