"""ABS as a remover: what its neurons and triggers lead to is unlearned; stimulation itself is tested among the scanners."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.planting import SavedTrigger
from orthogon.removal import remove
from orthogon.removal.abs import ABS


def test_the_planted_class_is_found_and_unlearned(
    poisoned: Classifier, clean: LabelledImages, trigger: SavedTrigger, draws: torch.Generator
) -> None:
    done = remove(poisoned, clean, ABS(protocol="screen", neurons=6, stimulated_images=12, values=3), draws)
    stimulation, patches, filters, *unlearning = done.history
    assert [look.stage for look in (stimulation, patches, filters)] == ["stimulation", "patch triggers", "filter triggers"]
    assert trigger.threat.target in {target for _, _, target in stimulation.facts["candidates"]}
    assert patches.facts["reasr"][trigger.threat.target] > 0.8
    assert unlearning
    assert any("patch triggers that turn enough held-out images" in note for note in done.notes)
    assert done.classifier.digest() != poisoned.digest()


def test_nothing_convicted_leaves_the_model_as_it_is(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    quick = ABS(protocol="screen", neurons=1, stimulated_images=12, values=3, reasr=1.0)
    done = remove(poisoned, clean, quick, draws)
    assert done.classifier.digest() == poisoned.digest()
    assert any("the model was left as it is" in note for note in done.notes)


def test_unknown_layer(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match="'late' is no layer"):
        remove(poisoned, clean, ABS(), draws, layers=("late",))


def test_a_network_without_feature_maps(clean: LabelledImages, draws: torch.Generator) -> None:
    subject = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1200, 6)), clean.classes, clean.image_shape)
    with pytest.raises(ValueError, match="Sequential has no feature map"):
        remove(subject, clean, ABS(), draws, force=True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"values": 1}, "values must be at least 2"),
        ({"neurons": 0}, "neurons at least 1"),
        ({"reasr": 0.0}, "reasr must be above 0"),
        ({"share": 2.0}, "share must be from 0 to 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ABS(**settings)  # pyright: ignore[reportArgumentType]
