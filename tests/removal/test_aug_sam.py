"""AugSAM: one step written out, the teacher's part, and a real backdoor."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.evaluate import attack_success
from orthogon.images import LabelledImages
from orthogon.planting import SavedTrigger
from orthogon.recipe import TrainingSettings
from orthogon.removal import AugSAM, remove
from orthogon.removal.ft_sam import FTSAM
from orthogon.removal.remover import Work
from orthogon.removal.variations import varied

AS_THEY_ARE = TrainingSettings(shift=0.0)


class _Exact(Work):
    """In float32 on every machine, so that a step can be compared with arithmetic."""

    def logits(self, classifier: Classifier, images: Tensor) -> Tensor:
        return classifier(images)


def _work(seed: int = 0) -> Work:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(12) % 3, ("a", "b", "c"), "noise")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    classifier = Classifier(network, images.classes, (3, 8, 8))
    return _Exact(classifier, images, images, torch.Generator().manual_seed(seed), AS_THEY_ARE)


def test_a_step_is_its_formula() -> None:
    work, settings = (
        _work(),
        AugSAM(
            epochs=1, least_updates=0, batch=12, distillation=1.0, learning_rate=0.1, momentum=0.0, weight_decay=0.0, radius=0.5
        ),
    )
    teacher = copy.deepcopy(work.classifier)
    (_, images, labels), *_ = _work().batches(1, 12)
    draws = torch.Generator().manual_seed(0)
    torch.randperm(12, generator=draws)  # the order of the batch was drawn before
    images = torch.cat([images[:6], varied(images[6:], draws, 0.5)])
    by_hand = copy.deepcopy(teacher)
    parameters = list(by_hand.parameters())

    def gradients() -> list[Tensor]:
        logits = by_hand(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        with torch.no_grad():
            taught = (teacher(images[:6]) / 2).softmax(1)
        answers = (logits[:6] / 2).log_softmax(1)
        loss = loss + 4 * (taught * (taught.log() - answers)).sum(1).mean()
        return list(torch.autograd.grad(loss, parameters))

    first = gradients()
    norm = torch.cat([(p.detach().abs() * g).flatten() for p, g in zip(parameters, first, strict=True)]).norm()
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, g in zip(parameters, first, strict=True):
            p.add_(0.5 * p.square() * g / norm)
    worst = gradients()
    expected = [p - 0.1 * g for p, g in zip(kept, worst, strict=True)]
    got = list(settings.remove(work).parameters())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.detach(), b, atol=1e-5, rtol=1e-4)


def test_with_nothing_changed_and_no_teacher_it_is_ft_sam() -> None:
    numbers = {"epochs": 2, "batch": 6, "learning_rate": 0.1}
    plain = FTSAM(**numbers).remove(_work())
    same = AugSAM(**numbers, least_updates=4, changed=0.0, distillation=0.0).remove(_work())
    other = AugSAM(**numbers, least_updates=4, changed=0.0, distillation=1.0).remove(_work())
    assert same.digest() == plain.digest() != other.digest()


def test_few_images_are_passed_more_often() -> None:
    """Twelve images are two batches of six: seven updates take four passes."""
    numbers = {"batch": 6, "learning_rate": 0.01, "changed": 0.0, "distillation": 0.0}
    many = AugSAM(epochs=1, least_updates=7, **numbers).remove(_work())
    assert many.digest() == AugSAM(epochs=4, least_updates=0, **numbers).remove(_work()).digest()
    assert many.digest() != AugSAM(epochs=1, least_updates=0, **numbers).remove(_work()).digest()


def test_it_takes_a_real_backdoor_out(
    poisoned: Classifier, clean: LabelledImages, unseen: LabelledImages, trigger: SavedTrigger
) -> None:
    def success(classifier: Classifier) -> float:
        return attack_success(classifier, unseen, trigger.stamp, trigger.threat.target, trigger.threat.victim).success_rate

    done = remove(
        poisoned, clean, AugSAM(epochs=15, least_updates=0, batch=32, learning_rate=0.1), torch.Generator().manual_seed(0)
    )
    assert success(poisoned) > 0.9
    assert success(done.classifier) < 0.2
    assert done.after.accuracy > 0.9


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"changed": 1.5}, "changed must be from 0 to 1, got 1.5"),
        ({"chance": -0.1}, "chance must be from 0 to 1, got -0.1"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"least_updates": -1}, "least_updates must be at least 0, got -1"),
        ({"distillation": -1.0}, "distillation must be at least 0"),
        ({"radius": 0.0}, "radius must be above 0"),
    ],
)
def test_bad_settings_are_named(changed: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AugSAM(**changed)  # pyright: ignore[reportArgumentType]
