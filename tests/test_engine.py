"""The engine's copy answers as the model does, whatever strangers have built into their networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from orthogon.classifier import Classifier
from orthogon.engine import Engine
from orthogon.evaluate import PGDSettings, robust_accuracy
from orthogon.frozen import Speed
from orthogon.images import LabelledImages
from orthogon.inversion import Request, invert
from orthogon.pairs import Outcome, Pair
from orthogon.protocols import InversionSettings, Stage
from orthogon.triggers import Patch

SETTINGS = InversionSettings((Stage(1, 4, 8, (0.1, 0.1), accept_every=4),))


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3))
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean, norm.running_var = torch.randn(8) / 2, torch.rand(8) + 0.2
    return network


def _plain() -> nn.Module:
    return _network()


def _hook_on_a_convolution() -> nn.Module:
    network = _network()
    network[0].register_forward_hook(lambda module, images, result: result * -2.0)
    return network


def _hook_on_the_root() -> nn.Module:
    network = _network()
    network.register_forward_pre_hook(lambda module, images: ((images[0] - 0.5) * -4.0,))
    return network


def _pruned() -> nn.Module:
    network = _network()
    prune.l1_unstructured(network[0], "weight", amount=0.5)
    return network


def _weight_normed() -> nn.Module:
    network = _network()
    parametrizations.weight_norm(network[0])
    return network


class _Float32Only(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = _network()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.float())


def _float32_only() -> nn.Module:
    return _Float32Only()


def _frozen_script() -> nn.Module:
    return torch.jit.freeze(torch.jit.script(_network().eval()))


def _engine(network: nn.Module) -> Engine:
    classifier = Classifier(network, ["a", "b", "c"], (3, 8, 8))
    pixels = torch.randint(256, (2, 64, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Engine(classifier, pixels, SETTINGS, Speed(precision=torch.bfloat16, compile=False))


@pytest.mark.parametrize(
    "make", [_plain, _hook_on_a_convolution, _hook_on_the_root, _pruned, _weight_normed, _float32_only, _frozen_script]
)
def test_the_copy_answers_as_the_model(make: Callable[[], nn.Module]) -> None:
    engine = _engine(make())
    images = engine.samples.flatten(0, 1).float() / 255
    with torch.no_grad():
        expected = engine.judge(images)
    assert engine.copy.logits(images) == pytest.approx(expected.numpy(), abs=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("make", [_hook_on_a_convolution, _pruned, _float32_only])
def test_a_refreshed_copy_answers_as_the_changed_model(make: Callable[[], nn.Module]) -> None:
    engine = _engine(make())
    with torch.no_grad():
        for parameter in engine.judge.parameters():
            parameter.mul_(-1.5)
    engine.copy.refresh(engine.judge)
    images = engine.samples[0].float() / 255
    with torch.no_grad():
        expected = engine.judge(images)
    assert engine.copy.logits(images) == pytest.approx(expected.numpy(), abs=0.05 * float(expected.abs().max()))


class _Unlike(nn.Module):
    """Answers otherwise in bfloat16: what a copy that is not the model looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _network()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * (1.0 if images.dtype is torch.float32 else -1.0)


def test_a_copy_that_answers_otherwise_is_replaced_and_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    engine = _engine(_Unlike())
    assert engine.copy.precision is torch.float32
    assert "making a slower one" in caplog.text


class _Blind(nn.Module):
    """Does not look at its images."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.answer.expand(len(images), 3)


def test_a_network_that_ignores_its_images_has_no_trigger() -> None:
    (result,) = invert(_engine(_Blind()), Patch(), [Request(Pair(0, 1), 0, 0)])
    assert result.outcome is Outcome.ASR


def test_a_network_that_ignores_its_images_cannot_be_attacked() -> None:
    images = LabelledImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 2]), ("a", "b", "c"), "test")
    classifier = Classifier(_Blind(), ["a", "b", "c"], (3, 8, 8))
    assert robust_accuracy(classifier, images, PGDSettings(), torch.Generator().manual_seed(0)).accuracy == 0.5


class _Greedy(nn.Module):
    """Has room for a few images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room = _network(), room

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(images)


def test_the_judge_goes_on_with_fewer_images_where_memory_runs_out() -> None:
    engine, unbounded = _engine(_Greedy(9)), _engine(_plain())
    images = engine.samples[0].float() / 255
    for target in range(3):
        assert engine.success(images, target) == unbounded.success(images, target)


@pytest.mark.parametrize(("precision", "name"), [(torch.float16, "float16"), (torch.float64, "float64")])
def test_a_network_in_another_precision_is_told(precision: torch.dtype, name: str) -> None:
    with pytest.raises(ValueError, match=rf"weights in torch\.{name}, .* give network\.float\(\)"):
        _engine(_network().to(precision))
