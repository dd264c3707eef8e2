"""The fast copy agrees with the original, leaves it alone, and survives machines without compiler or memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthogon.classifier import Classifier, Normalization
from orthogon.frozen import FrozenCopy, Speed
from orthogon.machine import has_compiler
from orthogon.models import build

CPU = torch.device("cpu")
EXACT = Speed(precision=torch.float32, compile=False, chunk=16)
SHAPE = (3, 12, 12)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class PreActivation(nn.Module):
    """Norm before convolution, a second user of the same tensor, stride 2: nothing here can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.short, self.head = nn.Conv2d(8, 8, 1, stride=2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv1(F.relu(self.norm1(x)))
        x = self.conv2(F.relu(self.norm2(y))) + self.short(x)
        return self.head(x.mean((2, 3)))


class BranchesOnValues(nn.Module):
    """What torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if x.mean() > 1e6:
            x = -x
        return self.head(F.gelu(x).mean((2, 3)))


class SharedTensor(nn.Module):
    """The convolution's result is used beside the norm, which must not be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((F.relu(self.norm(x)) + x).mean((2, 3)))


class TiedWeights(nn.Module):
    """One convolution and one norm, each called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = F.relu(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


class TiedConvolution(nn.Module):
    """One convolution with a norm of its own at each of its two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.conv, self.norm1, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.norm1(self.conv(x)))
        return self.head(F.relu(self.norm2(self.conv(x))).mean((2, 3)))


def _stack(*layers: nn.Module, width: int = 8) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)),
    "convolution, norm": _stack(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
    "stride 2": _stack(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
    "stride 3, dilation 2": _stack(nn.Conv2d(3, 8, 3, stride=3, dilation=2), nn.BatchNorm2d(8), nn.ReLU()),
    "circular padding": _stack(nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(8), nn.GELU()),
    "more padding than kernel": _stack(nn.Conv2d(3, 8, 1, padding=2), nn.BatchNorm2d(8), nn.ReLU()),
    "groups": _stack(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU()),
    "transposed": _stack(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
    "norm without affine": _stack(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU()),
    "norm of the batch": _stack(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU()),
    "norm first": _stack(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU()),
    "dropout": _stack(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU()),
    "pre-activation": PreActivation,
    "branches on values": BranchesOnValues,
    "shared tensor": SharedTensor,
    "tied weights": TiedWeights,
    "tied convolution": TiedConvolution,
    "script": lambda: torch.jit.script(_stack(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())()),
    "resnet20": lambda: build("resnet20", 4, (3, 16, 16)),
}
WHOLE_BATCH = {"norm of the batch"}
"""Networks whose answer to an image depends on the images beside it, so that chunks change it."""


def _classifier(name: str) -> Classifier:
    """A network with random weights and the running statistics of a trained one."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for statistic in (module.running_mean, module.weight, module.bias):
                if statistic is not None:
                    nn.init.normal_(statistic, 0.3, 0.5)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    shape = (3, 16, 16) if name == "resnet20" else SHAPE
    return Classifier(network, list("abcd"), shape, Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))


def _batch(count: int, shape: tuple[int, int, int] = SHAPE) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, *shape, generator=generator)
    return images, torch.arange(count) % 4, torch.rand(count, generator=generator)


def _by_autograd(classifier: Classifier, images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    logits = classifier(images)
    (gradient,) = torch.autograd.grad((_loss(logits, targets) * weights).sum(), images)
    return logits.detach(), gradient


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_copy_agrees_with_the_original(name: str) -> None:
    classifier = _classifier(name).eval()
    batch = _batch(12 if name in WHOLE_BATCH else 20, classifier.image_shape)
    speed = Speed(torch.float32, compile=False, chunk=12)
    copy = FrozenCopy(classifier, _loss, CPU, speed)
    logits, gradient = copy.gradient(*batch)
    expected_logits, expected_gradient = _by_autograd(classifier, *batch)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(copy.logits(batch[0]), expected_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-4 * float(expected_gradient.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["convolution, norm", "stride 2", "groups", "pre-activation", "branches on values"])
def test_bfloat16_points_the_same_way(name: str) -> None:
    classifier = _classifier(name).eval()
    batch = _batch(20)
    copy = FrozenCopy(classifier, _loss, CPU, Speed(torch.bfloat16, compile=False))
    logits, gradient = copy.gradient(*batch)
    expected_logits, expected_gradient = _by_autograd(classifier, *batch)
    assert gradient.dtype == copy.precision == torch.bfloat16
    assert logits.dtype == torch.float32
    assert F.cosine_similarity(logits.flatten(), expected_logits.flatten(), 0) > 0.999
    assert F.cosine_similarity(gradient.float().flatten(), expected_gradient.flatten(), 0) > 0.98


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["convolution, norm", "pre-activation", "branches on values", "script"])
def test_the_original_stays_as_it_is(name: str, training: bool) -> None:
    classifier = _classifier(name).train(training)
    for n, parameter in enumerate(classifier.parameters()):
        parameter.requires_grad_(n % 2 == 0)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    wanted = [p.requires_grad for p in classifier.parameters()]
    modes = [m.training for m in classifier.modules()]
    modules = [type(m) for m in classifier.modules()]
    FrozenCopy(classifier, _loss, CPU, Speed(torch.bfloat16, compile=False)).gradient(*_batch(4))
    after = classifier.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())
    assert [p.requires_grad for p in classifier.parameters()] == wanted
    assert [m.training for m in classifier.modules()] == modes
    assert [type(m) for m in classifier.modules()] == modules
    assert all(p.grad is None for p in classifier.parameters())


def test_the_copy_of_a_model_in_training_is_of_its_eval_mode() -> None:
    classifier = _classifier("dropout").train()
    copy = FrozenCopy(classifier, _loss, CPU, EXACT)
    batch = _batch(8)
    torch.testing.assert_close(copy.logits(batch[0]), _by_autograd(classifier.eval(), *batch)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 21])
def test_chunks_change_nothing(count: int) -> None:
    classifier = _classifier("convolution, norm").eval()
    copy = FrozenCopy(classifier, _loss, CPU, Speed(torch.float32, compile=False, chunk=8))
    batch = _batch(count)
    logits, gradient = copy.gradient(*batch)
    expected_logits, expected_gradient = _by_autograd(classifier, *batch)
    assert logits.shape == (count, 4)
    assert gradient.shape == (count, *SHAPE)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_sample_of_weight_zero_pulls_at_nothing() -> None:
    images, targets, weights = _batch(6)
    weights[2] = 0.0
    _, gradient = FrozenCopy(_classifier("stride 2"), _loss, CPU, EXACT).gradient(images, targets, weights)
    assert not gradient[2].any()
    assert gradient[3].any()


def test_on_a_cpu_the_last_pass_is_filled_up_to_a_quarter_of_a_chunk() -> None:
    copy, seen = FrozenCopy(_classifier("linear"), _loss, CPU, Speed(torch.float32, compile=False, chunk=8)), list[int]()
    copy._network.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    _, gradient = copy.gradient(*_batch(11))
    assert seen == [8, 4]
    assert len(gradient) == 11


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_out_of_memory_halves_the_chunk_and_goes_on(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    classifier = _classifier("convolution, norm").eval()
    copy = FrozenCopy(classifier, _loss, CPU, Speed(torch.float32, compile=False, chunk=32))
    step, batch = copy._step, _batch(40)

    def limited(images: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) > 8:
            raise error
        return step(images, targets, weights)

    monkeypatch.setattr(copy, "_step", limited)
    with caplog.at_level(logging.WARNING, "orthogon.frozen"):
        logits, gradient = copy.gradient(*batch)
    assert copy.chunk == 8
    assert [r.getMessage() for r in caplog.records] == [
        "out of memory: going on with chunks of 16 images",
        "out of memory: going on with chunks of 8 images",
    ]
    expected_logits, expected_gradient = _by_autograd(classifier, *batch)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize(("chunk", "error"), [(8, torch.OutOfMemoryError("full")), (32, RuntimeError("another"))])
def test_what_smaller_chunks_cannot_mend_is_raised(chunk: int, error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = FrozenCopy(_classifier("linear"), _loss, CPU, Speed(torch.float32, compile=False, chunk=chunk))

    def broken(*_: Tensor) -> tuple[Tensor, Tensor]:
        raise error

    monkeypatch.setattr(copy, "_step", broken)
    with pytest.raises(type(error), match=str(error)):
        copy.gradient(*_batch(4))
    assert copy.chunk == chunk


@pytest.mark.skipif(not has_compiler(CPU), reason="no C++ compiler on this machine")
def test_the_compiled_step_equals_the_eager_one() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1)]
    classifier = Classifier(_stack(*layers, nn.BatchNorm2d(8), nn.ReLU())(), list("abcd"), (3, 8, 8)).eval()
    batch = _batch(21, (3, 8, 8))
    compiled = FrozenCopy(classifier, _loss, CPU, Speed(torch.float32, compile=True, chunk=8))
    assert compiled.compiled
    logits, gradient = compiled.gradient(*batch)
    expected_logits, expected_gradient = _by_autograd(classifier, *batch)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-3)
    assert not logits.requires_grad
    assert not gradient.requires_grad


def test_what_cannot_be_compiled_stays_eager_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orthogon.frozen.has_compiler", lambda device: True)
    with caplog.at_level(logging.WARNING, "orthogon.frozen"):
        copy = FrozenCopy(_classifier("branches on values"), _loss, CPU, Speed(torch.float32, compile=True, chunk=8))
    assert not copy.compiled
    assert "runs slower" in caplog.text
    logits, _ = copy.gradient(*_batch(9))
    assert logits.shape == (9, 4)


def test_an_image_s_result_does_not_depend_on_the_images_beside_it() -> None:
    copy = FrozenCopy(_classifier("pre-activation"), _loss, CPU, Speed(torch.float32, compile=False, chunk=16))
    batch = _batch(40)
    logits, gradient = copy.gradient(*batch)
    for part in (slice(5, 6), slice(3, 30)):
        part_logits, part_gradient = copy.gradient(*(t[part] for t in batch))
        assert torch.equal(part_logits, logits[part])
        assert torch.equal(part_gradient, gradient[part])


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not has_compiler(CPU)
    assert not FrozenCopy(_classifier("linear"), _loss, CPU, Speed(torch.float32, compile=True)).compiled


REFRESHED = ["convolution, norm", "tied convolution", "norm without affine", "branches on values", "resnet20"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*REFRESHED, "pre-activation", "norm of the batch", "norm first", "tied weights", "script"])
def test_a_refreshed_copy_equals_a_new_one(name: str, precision: torch.dtype) -> None:
    """For folded norms, those that became affine maps, and untraceable networks; weights and statistics have changed."""
    classifier, speed = _classifier(name).eval(), Speed(precision, compile=False, chunk=12)
    batch = _batch(12, classifier.image_shape)
    copy = FrozenCopy(classifier, _loss, CPU, speed)
    stale = copy.logits(batch[0])
    with torch.no_grad():
        for tensor in classifier.network.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.5).add_(0.02)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    copy.refresh(classifier)
    new = FrozenCopy(classifier, _loss, CPU, speed)
    for refreshed, expected in zip(copy.gradient(*batch), new.gradient(*batch), strict=True):
        assert torch.equal(refreshed, expected)
    assert torch.equal(copy.logits(batch[0]), new.logits(batch[0]))
    assert not torch.equal(copy.logits(batch[0]), stale)
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())


def test_a_copy_takes_over_the_weights_of_another_classifier_of_the_same_network() -> None:
    copy, other = FrozenCopy(_classifier("stride 2"), _loss, CPU, EXACT), _classifier("stride 2").train()
    with torch.no_grad():
        other.network[0].weight.neg_()
    batch = _batch(8)
    copy.refresh(other)
    assert other.training
    torch.testing.assert_close(copy.logits(batch[0]), _by_autograd(other.eval(), *batch)[0], atol=1e-4, rtol=1e-4)
