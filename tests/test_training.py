from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.training import Epoch, TrainingDiverged, TrainingSettings, augment, fit, learning_rate_share

CLASSES = ("dark", "red", "green", "blue")
SETTINGS = TrainingSettings(epochs=3, batch=16, learning_rate=0.1, precision="float32")


def colours(count: int = 160, seed: int = 0) -> LabelledImages:
    """Noise with one channel raised: learnt in a few steps, by colour alone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 160, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(count), (labels - 1).clamp(min=0)] += (60 * (labels > 0)).view(-1, 1, 1).to(torch.uint8)
    return LabelledImages(pixels, labels, CLASSES, "colours")


def small(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    return Classifier(network, CLASSES, (3, 8, 8))


def weights(classifier: Classifier) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in classifier.network.state_dict().values()])


def accuracy(classifier: Classifier, images: LabelledImages) -> float:
    with torch.no_grad():
        return (classifier(images.floats()).argmax(1) == images.labels).float().mean().item()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_it_learns_and_tells_how(generator: torch.Generator, precision: str) -> None:
    classifier, seen = small(), []
    settings = replace(SETTINGS, epochs=12, precision=precision)
    history = fit(classifier, colours(), settings, generator, on_progress=lambda done, last: seen.append((done, last)))
    assert accuracy(classifier, colours(seed=1)) > 0.95
    assert [epoch.number for epoch in history] == list(range(1, 13))
    assert history[-1].loss < history[0].loss / 2
    assert history[-1].accuracy > 0.9
    assert len(seen) == 120
    assert seen[0] == (1 / 120, None)
    assert seen[-1][0] == 1
    assert seen[-1][1] == history[-2]
    assert not classifier.training


def test_every_part_of_the_recipe_at_once(generator: torch.Generator) -> None:
    settings = replace(SETTINGS, epochs=12, flip=True, cutout=0.25, label_smoothing=0.1, average=0.9)
    classifier = small()
    fit(classifier, colours(), settings, generator)
    assert accuracy(classifier, colours(seed=1)) > 0.9


def test_one_seed_one_result() -> None:
    runs = []
    for seed in (0, 0, 1):
        classifier = small()
        fit(classifier, colours(), SETTINGS, torch.Generator().manual_seed(seed))
        runs.append(weights(classifier))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_masks_of_dropout_hang_on_the_generator_too() -> None:
    def after(seed: int, elsewhere: int) -> torch.Tensor:
        classifier = small()
        classifier.network.insert(5, nn.Dropout(0.5))
        torch.manual_seed(elsewhere)
        fit(classifier, colours(), SETTINGS, torch.Generator().manual_seed(seed))
        return weights(classifier)

    assert torch.equal(after(0, 1), after(0, 2))


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_killed_training_ends_with_the_same_weights(tmp_path: Path, average: float) -> None:
    class Killed(BaseException):
        pass

    def kill(done: float, _: Epoch | None) -> None:
        if done > 0.8:
            raise Killed

    settings = replace(SETTINGS, average=average, cutout=0.25, flip=True)
    path = tmp_path / "checkpoint.safetensors"
    whole, resumed = small(), small()
    history = fit(whole, colours(), settings, torch.Generator().manual_seed(5))
    with pytest.raises(Killed):
        fit(
            small(),
            colours(),
            settings,
            torch.Generator().manual_seed(5),
            checkpoint=path,
            checkpoint_seconds=0.0,
            on_progress=kill,
        )
    steps = []
    again = fit(
        resumed,
        colours(),
        settings,
        torch.Generator().manual_seed(5),
        checkpoint=path,
        on_progress=lambda done, _: steps.append(done),
    )
    assert len(steps) == 10  # one epoch of three was left
    assert [(e.number, e.loss, e.accuracy) for e in again] == [(e.number, e.loss, e.accuracy) for e in history]
    assert torch.equal(weights(whole), weights(resumed))


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, generator: torch.Generator) -> None:
    path = tmp_path / "checkpoint.safetensors"
    fit(small(), colours(), SETTINGS, torch.Generator().manual_seed(0), checkpoint=path)
    with pytest.raises(ValueError, match=r"settings\.epochs: 3 -> 4"):
        fit(small(), colours(), replace(SETTINGS, epochs=4), torch.Generator().manual_seed(0), checkpoint=path)
    with pytest.raises(ValueError, match="data"):
        fit(small(), colours(seed=1), SETTINGS, torch.Generator().manual_seed(0), checkpoint=path)
    other = small()
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=r"another training.*start"):
        fit(other, colours(), SETTINGS, torch.Generator().manual_seed(0), checkpoint=path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        fit(small(), colours(), SETTINGS, generator, checkpoint=path)


def test_divergence_is_told_with_a_way_out(generator: torch.Generator) -> None:
    classifier = small()
    with torch.no_grad():
        classifier.network[5].weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"learning rate of 0\.1; try 0\.025"):
        fit(classifier, colours(), SETTINGS, generator)


def test_misfits_are_told(generator: torch.Generator) -> None:
    images = colours()
    three = LabelledImages(images.pixels[:, :, :, :7], images.labels, CLASSES, "narrow")
    with pytest.raises(ValueError, match=r"\(3, 8, 8\).*narrow has \(3, 8, 7\)"):
        fit(small(), three, SETTINGS, generator)
    five = LabelledImages(images.pixels, images.labels, (*CLASSES, "x"), "five")
    with pytest.raises(ValueError, match="4 classes, but five has 5"):
        fit(small(), five, SETTINGS, generator)
    with pytest.raises(ValueError, match="no images in"):
        fit(small(), images.select(torch.arange(0)), SETTINGS, generator)


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch": 0}, {"warm_up": 1.0}, {"learning_rate": 0.0}, {"shift": 0.7}, {"average": 1.0}]
)
def test_wrong_settings_name_themselves(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(SETTINGS, **change)


def test_the_learning_rate_is_a_triangle() -> None:
    assert [learning_rate_share(p, 0.2) for p in (0.0, 0.1, 0.2, 0.6, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert learning_rate_share(0.0, 0.0) == 1


def test_augmentation_moves_pixels_and_keeps_their_range(generator: torch.Generator) -> None:
    batch = torch.rand(32, 3, 8, 8, generator=generator)
    changed = augment(batch, replace(SETTINGS, flip=True, cutout=0.5), generator)
    assert changed.shape == batch.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    assert not torch.equal(changed, batch)
    assert torch.equal(augment(batch, replace(SETTINGS, shift=0.0), generator), batch)


def test_biases_and_normalisation_do_not_decay(generator: torch.Generator) -> None:
    classifier = small()
    before = classifier.network[1].weight.clone()
    black = LabelledImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), CLASSES, "black")
    settings = replace(SETTINGS, epochs=1, batch=4, weight_decay=0.5, shift=0.0)
    conv = classifier.network[0].weight.norm().item()
    fit(classifier, black, settings, generator)
    assert torch.equal(classifier.network[1].weight, before)  # black images: no gradient reaches the scale
    assert classifier.network[0].weight.norm().item() < conv
