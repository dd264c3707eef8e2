"""NAD: attention maps against numpy, the loss written out, the teacher, and a real model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.recipe import TrainingSettings
from orthogon.removal.nad import NAD, attention
from orthogon.removal.remover import Work

CLASSES = ("a", "b", "c")
AS_THEY_ARE = TrainingSettings(shift=0.0)


class _Exact(Work):
    """In float32 on every machine."""

    def logits(self, classifier: Classifier, images: Tensor) -> Tensor:
        return classifier(images)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 4), (4, 5), (5, 6)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))


def _work(draws: torch.Generator, layers: tuple[str, ...] = ()) -> Work:
    pixels = torch.randint(256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(12) % 3, CLASSES, "noise")
    return _Exact(Classifier(_network(), CLASSES, (3, 16, 16)), images, images, draws, AS_THEY_ARE, layers)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_attention_is_its_formula(power: float) -> None:
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    summed = (np.abs(maps.numpy().astype(np.float64)) ** power).sum(1)
    expected = summed / np.sqrt((summed**2).sum((1, 2), keepdims=True))
    np.testing.assert_allclose(attention(maps, power).numpy(), expected, rtol=1e-5)


def test_attention_of_a_dead_layer_is_nothing() -> None:
    assert attention(torch.zeros(1, 2, 3, 3)).tolist() == torch.zeros(1, 3, 3).tolist()


def test_attention_does_not_see_a_layers_scale() -> None:
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attention(maps), attention(7 * maps))


def test_loss_written_out(draws: torch.Generator) -> None:
    work = _work(draws)
    teacher = copy.deepcopy(work.classifier)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(1.5).add_(0.05)
    x, labels = work.images.floats(), work.images.labels
    method = NAD(betas=(2.0, 3.0, 4.0))
    expected = F.cross_entropy(work.classifier(x), labels).item()
    for beta, depth in ((2, 2), (3, 4), (4, 6)):
        ours, theirs = (np.abs(c.network[:depth](x).detach().numpy()) ** 2 for c in (work.classifier, teacher))  # pyright: ignore
        ours, theirs = (m.sum(1) / np.sqrt((m.sum(1) ** 2).sum((1, 2), keepdims=True)) for m in (ours, theirs))
        expected += beta * ((ours - theirs) ** 2).mean()
    loss = method._loss(work, work.classifier, teacher, method._layers(work), x, labels)  # pyright: ignore[reportPrivateUsage]
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in teacher.parameters())
    alone = method._loss(work, work.classifier, None, [], x, labels)  # pyright: ignore[reportPrivateUsage]
    assert alone.item() == pytest.approx(F.cross_entropy(work.classifier(x), labels).item())


def test_names_its_layers_and_both_stages(draws: torch.Generator) -> None:
    work, told = _work(draws), []
    work.on_progress = lambda share, _: told.append(share)
    NAD(epochs=2, teacher_epochs=1, batch=6).remove(work)
    assert work.notes == ["attention maps of 1, 3, 5"]
    assert {look.stage for look in work.history} == {"teacher", "student"}
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


def test_strong_maps_hold_the_student_at_the_teachers(draws: torch.Generator) -> None:
    """Without a step of its own the teacher is the student's start: strong maps then leave the student's attention there."""

    def moved(betas: tuple[float, float, float]) -> float:
        work = _work(torch.Generator().manual_seed(0))
        before, x = copy.deepcopy(work.classifier), work.images.floats()
        rates = {"learning_rate": 1e-30, "first_epochs": 1, "later_rate": 0.05, "teacher_epochs": 1}
        NAD(epochs=30, batch=12, betas=betas, **rates).remove(work)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            after, at_first = (attention(c.network[:6](x)) for c in (work.classifier, before))  # pyright: ignore
        return float((after - at_first).norm())

    assert moved((0.0, 50.0, 50.0)) < 0.7 * moved((0.0, 0.0, 0.0))


def test_layers_of_the_users_own(draws: torch.Generator) -> None:
    work = _work(draws, ("0", "2", "4"))
    NAD(epochs=1, teacher_epochs=1).remove(work)
    assert work.notes == ["attention maps of 0, 2, 4"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("1", "3"), "maps of 3 layers, one for each beta; 2 are named"),
        (("1", "3", "head"), "'head' is no layer of Sequential"),
        (("1", "3", "7"), r"'7' gives \(1, 3\), attention needs feature maps"),
    ],
)
def test_layers_that_will_not_do(layers: tuple[str, ...], message: str, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        NAD().remove(_work(draws, layers))


def test_too_few_stages(draws: torch.Generator) -> None:
    work = _work(draws)
    work.classifier = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), CLASSES, (3, 16, 16))
    with pytest.raises(ValueError, match="0 sizes, 3 are needed"):
        NAD().remove(work)


def test_divergence_is_told(draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"teacher: the loss became .* try 2\.5e\+29"):
        NAD(learning_rate=1e30, first_epochs=20, teacher_epochs=20).remove(_work(draws))


def test_a_real_model_keeps_its_accuracy(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    work = Work(poisoned, clean, clean, draws, AS_THEY_ARE)
    NAD(epochs=2, teacher_epochs=1, batch=32, learning_rate=0.01).remove(work)
    assert not poisoned.training
    assert work.history[-1].accuracy > 0.5


@pytest.mark.parametrize("wrong", ["epochs", "teacher_epochs", "batch"])
def test_settings_out_of_range(wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        NAD(**{wrong: 0})  # pyright: ignore[reportArgumentType]
