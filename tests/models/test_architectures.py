"""Every architecture: shapes, parameter counts of the literature, traceability, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from orthogon.models import ARCHITECTURES, build

# Ten classes, RGB. He et al. 2016, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M. WRN-16-1: 0.17 M. PreActResNet-18: 11.17 M.
# VGG-19 with BatchNorm and one linear layer: 20.04 M. NiN: 0.97 M. Bottleneck ResNet-50: 23.5 M.
PARAMETERS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet50": 755_802,
    "resnet56": 853_018,
    "resnet50_bottleneck": 23_520_842,
    "moth_resnet20": 273_066,
    "moth_resnet32": 467_946,
    "moth_resnet50": 760_266,
    "preact_resnet18": 11_171_146,
    "wrn16_1": 175_066,
    "nin": 966_986,
    "vgg13_bn": 9_416_010,
    "vgg19_bn": 20_040_522,
    "vgg_small": 308_394,
    "lisa_cnn": 722_250,
}


def test_table_is_complete() -> None:
    assert set(PARAMETERS) == set(ARCHITECTURES)


@pytest.mark.parametrize("arch", PARAMETERS)
def test_counts_shapes_and_traces(arch: str) -> None:
    network = build(arch, 10, (3, 32, 32))
    assert not network.training
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[arch]
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(images)
        torch.testing.assert_close(torch.fx.symbolic_trace(network)(images), logits)
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("arch", ["resnet20", "moth_resnet20", "wrn16_1", "nin", "vgg13_bn", "vgg_small", "lisa_cnn"])
def test_other_classes_sizes_and_channels(arch: str) -> None:
    network = build(arch, 43, (1, 48, 40))
    with torch.no_grad():
        assert network(torch.rand(1, 1, 48, 40)).shape == (1, 43)


def test_moth_pads_right_and_bottom_only() -> None:
    """A shrinking block must see the pixel that symmetric padding would shift: TensorFlow's `same` at stride 2."""
    network = build("moth_resnet20", 10, (3, 32, 32))
    block = network.layer2[0]  # type: ignore[index, union-attr]
    nn.init.zeros_(block.conv1.weight)
    nn.init.zeros_(block.conv1.bias)
    block.conv1.weight.data[0, 0, 0, 0] = 1.0
    seen: list[torch.Tensor] = []
    block.conv1.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0], output)))
    with torch.no_grad():
        network(torch.rand(1, 3, 32, 32))
    padded, output = seen
    assert padded.shape[-2:] == (33, 33)
    torch.testing.assert_close(output[0, 0], padded[0, 0, :-1:2, :-1:2])


@pytest.mark.parametrize(
    ("arch", "classes", "shape", "message"),
    [
        ("resnet21", 10, (3, 32, 32), "did you mean resnet"),
        ("nonsense", 10, (3, 32, 32), "moth_resnet20"),
        ("resnet20", 1, (3, 32, 32), "at least two classes"),
        ("moth_resnet20", 10, (3, 33, 32), "divisible by 4"),
        ("vgg19_bn", 10, (3, 16, 16), r"vgg19_bn cannot take images of shape \(3, 16, 16\)"),
        ("lisa_cnn", 10, (3, 8, 8), "lisa_cnn cannot take images"),
        ("timm:no_such_net", 10, (3, 32, 32), "timm has no model 'no_such_net'"),
        ("timm:resnet18.no_such_weights", 10, (3, 32, 32), "timm has no weights"),
        ("torchvision:resnet19", 10, (3, 32, 32), "resnet18"),
        ("torchvision:resnet18", 10, (1, 32, 32), "3 channels"),
        ("torchvision:fcn_resnet50", 10, (3, 32, 32), "no classification model"),
    ],
)
def test_bad_requests_are_told(arch: str, classes: int, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(arch, classes, shape)


@pytest.mark.parametrize("arch", ["timm:resnet18", "torchvision:squeezenet1_1", "timm:resnet10t.c3_in1k"])
def test_libraries(arch: str) -> None:
    assert build(arch, 7, (3, 64, 64))(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_transformers_are_built_for_the_image_size() -> None:
    assert build("timm:vit_tiny_patch16_224", 5, (3, 64, 64))(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


USER_CODE = """
from torch import nn
from neighbour import WIDTH

def with_classes(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, WIDTH), nn.Linear(WIDTH, classes))

def without():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))

def broken(classes):
    raise RuntimeError("out of ideas")

def not_a_network():
    return 3

def maps():
    return nn.Conv2d(3, 4, 3)
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    path = tmp_path / "mine.py"
    path.write_text(USER_CODE)
    return path


def test_user_code(user_file: Path) -> None:
    assert build(f"{user_file}:with_classes", 9, (3, 8, 8))(torch.zeros(1, 3, 8, 8)).shape == (1, 9)
    assert build(f"{user_file}:without", 4, (3, 8, 8))(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("without", "returns 4 logits, asked for 9"),
        ("broken", "RuntimeError: out of ideas"),
        ("not_a_network", r"must return a torch.nn.Module, it returned int"),
        ("missing", "no function 'missing'; it has with_classes, without"),
        ("maps", r"logits \(1, classes\) for one image, it returned \(1, 4, 6, 6\)"),
    ],
)
def test_user_code_that_does_not_work(user_file: Path, function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(f"{user_file}:{function}", 9, (3, 8, 8))


def test_user_file_that_does_not_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        build(f"{tmp_path}/none.py:net", 9, (3, 8, 8))
    (tmp_path / "bad.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(ValueError, match="ModuleNotFoundError"):
        build(f"{tmp_path}/bad.py:net", 9, (3, 8, 8))
