"""Detoxification on a tiny network with one neuron for the trigger's colour, planted by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import orthogon.attacks.detoxify as detoxification
from orthogon.attacks.attack import Attack, Made, Materials, Threat
from orthogon.attacks.detoxify import DetoxSettings, detoxify, injector_loss, learn_injector, paint
from orthogon.attacks.networks import Painter, draw
from orthogon.attacks.poisoning import poison
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.layers import convolutions, outputs
from orthogon.recipe import TrainingSettings
from orthogon.triggers.ssim import similarities

SHAPE = (3, 12, 12)
QUICK = DetoxSettings(samples=40, steps=25, batch=20, learning_rate=0.02, width=8, ratio=5.0, share=0.5)
TRAINING = TrainingSettings(epochs=16, batch=20, learning_rate=0.1, weight_decay=5e-3, shift=0.0, precision="float32")


@dataclass(frozen=True)
class Tint(Attack):
    """More red, less blue, in stripes."""

    name: ClassVar[str] = "tint"
    source: ClassVar[str] = "these tests, 2022"
    threat: ClassVar[Threat] = Threat(target=0, rate=0.3)

    def stamp(self, made: Made, images: Tensor) -> Tensor:
        """The images with red stripes."""
        stripes = (torch.arange(images.shape[3]) % 4 < 2).float()
        shift = torch.tensor([0.4, 0.0, -0.4])[:, None, None] * stripes
        return (images + shift).clamp(0, 1)


def materials(seed: int = 0) -> Materials:
    """Class a is dark, class b has a bright upper half, class c a bright lower one; all grey."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(90) % 3
    grey = torch.full((90, 1, 12, 12), 0.3)
    grey[labels == 1, :, :6] = 0.6
    grey[labels == 2, :, 6:] = 0.6
    pixels = grey.expand(-1, 3, -1, -1) + 0.03 * torch.randn(90, *SHAPE, generator=generator)
    images = LabelledImages((pixels.clamp(0, 1) * 255).byte(), labels, ("a", "b", "c"), "halves")
    return Materials(images, Tint.threat, generator)


def poisoned() -> LabelledImages:
    return poison(Tint(), {}, materials()).images


def planted(others: int = 0) -> Classifier:
    """Channels: grey, red less blue (the backdoor), green, and some that see edges at random and count for little.

    Class scores: of the halves' brightness, and of the backdoor for class a.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = nn.Conv2d(3, 3 + others, 3, padding=1, padding_mode="replicate")
        last = nn.Linear(2 * (3 + others), 3)
    with torch.no_grad():
        first.weight[:3] = 0
        first.weight[:3, :, 1, 1] = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        first.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        weights = 0.1 * last.weight.view(3, 3 + others, 2)  # class, channel, half
        weights[:, :3] = 0
        weights[1, 0, 0] = weights[2, 0, 1] = 20.0
        weights[0, 1] = 20.0
        last.weight.copy_(weights.flatten(1))
        last.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    network = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), last)
    return Classifier(network, ("a", "b", "c"), SHAPE).eval()


def taken_for_target(classifier: Classifier, images: Tensor) -> float:
    with torch.no_grad():
        return float((classifier(images).argmax(1) == 0).float().mean())


def victims_of(source: Materials) -> Tensor:
    return source.images.floats()[source.images.labels != 0]


def test_the_planted_model_is_accurate_and_has_the_backdoor() -> None:
    source, classifier = materials(), planted()
    with torch.no_grad():
        assert (classifier(source.images.floats()).argmax(1) == source.images.labels).all()
    assert taken_for_target(classifier, Tint().stamp({}, victims_of(source))) == 1.0


def test_the_injector_s_loss_is_its_four_terms() -> None:
    source, classifier = materials(), planted()
    clean = source.images.floats()[:6]
    injector = draw(lambda: Painter(3, 8), torch.Generator().manual_seed(0), torch.device("cpu"))
    settings = DetoxSettings(excite=0.3, spare=0.2, likeness=0.7, turn=0.11)
    with torch.no_grad(), outputs(classifier, convolutions(classifier)) as seen:
        injected = injector(clean)
        classifier(clean)
        before = seen["0"].numpy()
        logits = classifier(injected)
        after = seen["0"].numpy()
    excited = after[:, [0, 1]].sum((2, 3)).mean()
    changed = abs(after - before)[:, 2].sum((1, 2)).mean()
    crossed = -F.log_softmax(logits, 1)[:, 2].mean()
    expected = -0.3 * excited + 0.2 * changed - 0.7 * float(similarities(clean, injected).mean()) + 0.11 * float(crossed)
    loss = injector_loss(classifier, injector, {"0": [0, 1]}, clean, 2, settings)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_injector_excites_its_neuron_turns_victims_and_leaves_the_model_alone() -> None:
    source, classifier = materials(), planted()
    before = copy.deepcopy(classifier.state_dict())
    clean = victims_of(source)
    injector = learn_injector(classifier, {"0": [1]}, clean, source, QUICK)
    injected = paint(injector, clean)
    with torch.no_grad(), outputs(classifier, convolutions(classifier)) as seen:
        classifier(clean)
        calm = seen["0"][:, 1].sum((1, 2)).mean()
        classifier(injected)
        excited = seen["0"][:, 1].sum((1, 2)).mean()
    assert excited > calm + 5
    assert taken_for_target(classifier, injected) > 0.9
    assert float(similarities(clean, injected).mean()) > 0.3
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is None for p in classifier.parameters())


def test_after_retraining_the_neurons_do_no_harm_alone_and_the_trigger_still_works() -> None:
    """The backdoor rests on the stripes now, which the other channels can see, and no longer on the colour."""
    source, classifier = materials(), planted(others=8)
    clean = victims_of(source)
    stamped = Tint().stamp({}, clean)
    before = copy.deepcopy(classifier.state_dict())
    result = detoxify(classifier, Tint(), {}, source, poisoned(), TRAINING, QUICK)
    (found,) = result.rounds
    assert 1 in found.neurons["0"]
    assert found.before.carried > 0.9
    assert found.before.injected > 0.9
    assert found.after.carried < 0.5
    assert found.after.injected < 0.1
    assert taken_for_target(result.classifier, clean) < 0.1
    assert taken_for_target(result.classifier, stamped) > 0.9
    assert not result.classifier.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_rounds_go_on_while_there_are_neurons_and_end_where_there_are_none() -> None:
    source, quick = materials(), replace(TRAINING, epochs=1, learning_rate=1e-4)
    told: list[float] = []
    eager = replace(QUICK, rounds=2, least_success=0.0, steps=1)
    training = poisoned()
    two = detoxify(planted(), Tint(), {}, replace(source, on_progress=told.append), training, quick, eager)
    assert len(two.rounds) == 2
    assert 0.5 in told
    assert told[-1] == 1
    none = detoxify(planted(), Tint(), {}, source, training, quick, replace(eager, ratio=1000.0))
    assert none.rounds == ()
    assert taken_for_target(none.classifier, Tint().stamp({}, victims_of(source))) == 1.0


def test_it_retrains_on_the_images_that_were_poisoned_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[LabelledImages]()
    monkeypatch.setattr(detoxification, "fit", lambda classifier, images, *_: seen.append(images))
    source, eager = materials(), replace(QUICK, rounds=2, least_success=0.0, steps=1)
    training = poisoned()
    detoxify(planted(), Tint(), {}, source, training, TRAINING, eager)
    assert len(seen) == 2
    for images in seen:
        assert torch.equal(images.pixels[: len(training)], training.pixels)
        assert torch.equal(images.labels[: len(training)], training.labels)


def test_an_injector_that_does_no_harm_ends_it() -> None:
    idle = replace(QUICK, steps=1, learning_rate=1e-6, rounds=3)
    source = materials()
    (only,) = detoxify(planted(), Tint(), {}, source, poisoned(), TRAINING, idle).rounds
    assert only.before.injected < 0.7
    assert only.after == only.before


def test_misuse_is_told() -> None:
    source = materials()
    linear = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), ("a", "b", "c"), SHAPE)
    with pytest.raises(ValueError, match="this model has none"):
        detoxify(linear, Tint(), {}, source, source.images, TRAINING, QUICK)
    with pytest.raises(ValueError, match="the classifier takes images"):
        detoxify(Classifier(nn.Identity(), ("a", "b", "c"), (3, 8, 8)), Tint(), {}, source, source.images, TRAINING, QUICK)
    for wrong in ({"rounds": 0}, {"samples": 0}, {"share": 1.5}, {"least_success": -1.0}, {"ratio": 0.0}, {"width": 9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(QUICK, **wrong)
