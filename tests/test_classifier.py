"""The subject model's door: preprocessing inside, names and shapes checked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orthogon.classifier import Classifier, Normalization

COLOURS = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))


def _classifier(normalization: Normalization | None = None, channels: int = 3) -> Classifier:
    return Classifier(nn.Flatten(), ("a", "b"), (channels, 2, 2), normalization)


def test_images_are_normalised_inside() -> None:
    images = torch.rand(5, 3, 2, 2)
    expected = torch.stack([(images[:, 0] - 0.5) / 0.2, (images[:, 1] - 0.4) / 0.25, (images[:, 2] - 0.3) / 0.5], 1).flatten(1)
    torch.testing.assert_close(_classifier(COLOURS)(images), expected)


def test_one_mean_serves_every_channel() -> None:
    images = torch.rand(5, 3, 2, 2)
    torch.testing.assert_close(_classifier(Normalization((0.5,), (0.25,)))(images), (images.flatten(1) - 0.5) * 4)


def test_without_normalisation_the_network_sees_the_images_themselves() -> None:
    images = torch.rand(5, 3, 2, 2)
    assert torch.equal(_classifier()(images), images.flatten(1))


def test_the_normalisation_is_no_part_of_the_weights_but_moves_with_them() -> None:
    classifier = _classifier(COLOURS)
    assert not classifier.state_dict()
    images = torch.rand(2, 3, 2, 2, dtype=torch.float64)
    assert classifier.double()(images).dtype == torch.float64


def test_names_shape_and_card_are_kept() -> None:
    facts = {"accuracy": 0.9}
    classifier = Classifier(nn.Flatten(), ["cat", "dog"], (1, 2, 2), card=facts)
    facts["accuracy"] = 0.1
    assert classifier.classes == ("cat", "dog")
    assert classifier.image_shape == (1, 2, 2)
    assert classifier.card == {"accuracy": 0.9}


@pytest.mark.parametrize("classes", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at least two classes"):
        Classifier(nn.Flatten(), classes, (3, 2, 2))


def test_a_normalisation_for_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="3 channels, the images have 4"):
        _classifier(COLOURS, channels=4)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [((0.5, 0.5), (0.2,), "2 means but 1"), ((0.5,), (0.0,), "above 0"), ((0.5,), (float("nan"),), "above 0")],
)
def test_a_normalisation_that_cannot_be_is_refused(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Normalization(mean, std)
