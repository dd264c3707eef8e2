"""Adaptive: the loss, its minimum on a problem that can be written down, and following a model that changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn

from orthogon.attacks.adaptive import Adaptive
from orthogon.attacks.attack import Materials, Threat
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages

SHAPE = (3, 6, 6)


def linear(seed: int = 0, scale: float = 1.0) -> Classifier:
    """Three classes; a linear layer after a BatchNorm that does nothing in evaluation mode."""
    layer = nn.Linear(108, 3)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(3, 108, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    return Classifier(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), layer), ("a", "b", "c"), SHAPE).eval()


def weight_of(classifier: Classifier) -> Tensor:
    return classifier.get_parameter("network.2.weight").detach()


def materials(surrogate: Classifier | None, threat: Threat = Adaptive.threat) -> Materials:
    """Grey images, so far from black and white that nothing is clamped."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, 156, (60, *SHAPE), generator=generator, dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(60) % 3, ("a", "b", "c"), "grey")
    return Materials(images, threat, generator, surrogate)


def success(attack: Adaptive, made: dict[str, Tensor], classifier: Classifier) -> float:
    images = materials(classifier).images
    stamped = attack.stamp(made, images.floats()[images.labels != 0])
    return float((classifier(stamped).argmax(1) == 0).float().mean())


def test_the_loss_is_cross_entropy_and_the_weighted_norm() -> None:
    classifier, attack = linear(), Adaptive(weight=0.3)
    pattern = 0.2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    images = materials(None).images.floats()[:5]
    stamped = np.clip(images.numpy() + pattern.numpy(), 0, 1).reshape(5, -1)
    logits = stamped @ weight_of(classifier).numpy().T / np.sqrt(1 + 1e-5)
    expected = -log_softmax(logits, axis=1)[:, 2].mean() + 0.3 * np.sqrt((pattern.numpy() ** 2).sum())
    assert float(attack.loss(classifier, pattern, images, 2).detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_stamp_adds_the_pattern_and_stays_in_range() -> None:
    pattern = torch.zeros(SHAPE)
    pattern[0, 0, 0], pattern[1, 0, 0], pattern[2, 0, 0] = 0.25, 1.0, -1.0
    stamped = Adaptive().stamp({"pattern": pattern}, torch.full((2, *SHAPE), 0.5))
    assert stamped[:, :, 0, 0].tolist() == [[0.75, 1.0, 0.0]] * 2
    assert (stamped[:, :, 1:] == 0.5).all()


def test_against_two_linear_classes_the_pattern_is_the_difference_of_their_weights() -> None:
    """Cross entropy moves along w_target - w_other, and the norm asks for no other direction."""
    classifier = linear()
    weight, middle = weight_of(classifier), torch.full((108,), 0.5)
    with torch.no_grad():
        bias = classifier.get_parameter("network.2.bias")
        bias.copy_(torch.tensor([0.0, 5.0, -50.0]) - weight @ middle)  # b leads by 5 on grey, and c is nowhere near
    pattern = Adaptive(weight=1.0, learning_rate=0.003).make(materials(classifier))["pattern"].flatten()
    direction = weight[0] - weight[1]
    assert float(pattern @ direction / pattern.norm() / direction.norm()) > 0.99


def test_the_trigger_works_and_is_smaller_for_a_larger_weight() -> None:
    classifier = linear()
    small, large = (Adaptive(weight=weight, steps=150).make(materials(classifier)) for weight in (1.0, 0.01))
    assert success(Adaptive(), small, classifier) > 0.9
    assert success(Adaptive(), large, classifier) > 0.9
    assert small["pattern"].norm() < 0.7 * large["pattern"].norm()


def test_only_the_victims_are_looked_at() -> None:
    """With victim b the pattern is that of images of b alone, whatever the others are."""
    threat, classifier = Threat(victim=1), linear()
    some = materials(classifier, threat)
    pixels = some.images.pixels.clone()
    pixels[some.images.labels == 2] = 0
    changed = replace(some, images=replace(some.images, pixels=pixels), generator=torch.Generator().manual_seed(5))
    one, other = (Adaptive(steps=5).make(m) for m in (replace(some, generator=torch.Generator().manual_seed(5)), changed))
    assert torch.equal(one["pattern"], other["pattern"])


def test_a_refresh_follows_a_model_that_has_changed() -> None:
    before, after = linear(0), linear(1)
    attack = Adaptive(weight=0.2, steps=100)
    made = attack.make(materials(before))
    kept = made["pattern"].clone()
    followed = made
    for _ in range(3):
        followed = attack.refresh(followed, after, materials(None))
    assert success(attack, made, after) < 0.8
    assert success(attack, followed, after) > 0.95
    assert torch.equal(made["pattern"], kept)
    assert (attack.refresh(made, after, materials(None))["pattern"] - kept).abs().max() < 0.5  # some steps, no restart


def test_the_models_stay_as_they_are() -> None:
    surrogate = linear().train()
    before = copy.deepcopy(surrogate.state_dict())
    Adaptive(steps=3).make(materials(surrogate))
    assert surrogate.training
    assert all(torch.equal(value, before[name]) for name, value in surrogate.state_dict().items())
    assert all(p.grad is None for p in surrogate.parameters())


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="give a surrogate"):
        Adaptive().make(materials(None))
    images = replace(materials(None).images, classes=("a", "b", "c", "d"))
    lone = Materials(images, Threat(victim=3), torch.Generator())
    with pytest.raises(ValueError, match="no image of the victim class 'd'"):
        Adaptive().refresh({"pattern": torch.zeros(SHAPE)}, linear(), lone)
    with pytest.raises(ValueError, match="made for images of"):
        Adaptive().stamp({"pattern": torch.zeros(SHAPE)}, torch.zeros(1, 3, 8, 8))
    for wrong in ({"steps": 0}, {"refresh_steps": 0}, {"weight": -1.0}, {"start": 0.0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(Adaptive(), **wrong)
