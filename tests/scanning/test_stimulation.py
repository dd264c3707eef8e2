"""Stimulation against a network taken apart by hand, and the rule of the candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.scanning.stimulation import Candidate, candidates_of, elevations


class Branched(nn.Module):
    """A residual network of one block: its convolution does not alone decide the logits, its sum does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.sum = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.sum(x + self.conv(x)).mean((2, 3)))


@pytest.fixture
def noise(generator: torch.Generator) -> LabelledImages:
    pixels = torch.randint(0, 256, (5, 3, 4, 4), generator=generator).to(torch.uint8)
    return LabelledImages(pixels, torch.tensor([0, 1, 2, 3, 0]), ("a", "b", "c", "d"), "noise")


def branched(images: LabelledImages) -> Classifier:
    torch.manual_seed(1)
    return Classifier(Branched(), images.classes, images.image_shape).eval()


def test_elevations_as_written_out(noise: LabelledImages) -> None:
    """A mean of a map that is all v is v, so the head tells every logit."""
    classifier = branched(noise)
    network, x = classifier.network, noise.floats()
    with torch.no_grad():
        maps = network.get_submodule("sum")(x + network.get_submodule("conv")(x))
        head, means = network.get_submodule("head"), maps.mean((2, 3))
        weight, bias = (getattr(head, name) for name in ("weight", "bias"))
        expected = torch.zeros(3, 5, 4)
        for neuron in range(3):
            logits = []
            for k in range(6):
                changed = means.clone()
                changed[:, neuron] = k / 5 * maps.max()
                logits.append(changed @ weight.T + bias)
            expected[neuron] = torch.stack(logits[1:]).amax(0) - logits[0]
    told: list[float] = []
    assert torch.allclose(elevations(classifier, "sum", noise, 6, told.append), expected, atol=1e-5)
    assert told == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_a_layer_that_a_branch_passes_by(noise: LabelledImages) -> None:
    with pytest.raises(ValueError, match=r"'conv' does not alone decide the logits .* name a layer that everything passes"):
        elevations(branched(noise), "conv", noise, 4)


def test_the_network_keeps_no_hook(noise: LabelledImages) -> None:
    classifier = branched(noise)
    before = classifier(noise.floats())
    elevations(classifier, "sum", noise, 3)
    assert torch.equal(classifier(noise.floats()), before)


def test_candidates_by_hand() -> None:
    """Ten images, the last of class 2. Neuron 0 lifts class 2 on all of them, neuron 1 on eight, neuron 2 on nine."""
    labels = torch.tensor([0] * 5 + [1] * 4 + [2])
    lifts = torch.zeros(3, 10, 3)
    lifts[0, :, 2], lifts[0, 3, 1] = 5.0, 2.0  # margins 5, but 3 on the fourth image
    lifts[0, 9, 2] = 0.5  # an image of the class itself does not count
    lifts[1, :8, 2], lifts[1, 8:, 0] = 5.0, 5.0
    lifts[2, 1:, 2], lifts[2, 0, 0] = 4.0, 4.0
    assert candidates_of("late", lifts, labels, 0.9) == [Candidate("late", 0, 2, 3.0), Candidate("late", 2, 2, 4.0)]
    assert [c.neuron for c in candidates_of("late", lifts, labels, 0.95)] == [0]


def test_neurons_that_lift_nothing_are_none() -> None:
    assert candidates_of("late", torch.zeros(2, 6, 3), torch.arange(6) % 3, 0.9) == []
