"""Hardening as removal: its bound, what it tells, and that triggers lose."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orthogon import load_classifier
from orthogon.classifier import Classifier
from orthogon.evaluate import Evaluation, accuracy, attack_success
from orthogon.images import LabelledImages
from orthogon.methods import METHODS
from orthogon.planting import read_trigger
from orthogon.recipe import TrainingSettings
from orthogon.removal import remove
from orthogon.removal.moth import Moth, MothAdditive, MothColour, MothFilter, standard_error
from orthogon.removal.remover import Remover

ZOO = Path(__file__).parents[2] / "zoo"


def evaluation(correct: int, total: int) -> Evaluation:
    return Evaluation(("a", "b"), (correct, 0), (total, 0))


@pytest.mark.parametrize(("correct", "total"), [(212, 250), (250, 250), (0, 10), (1, 2)])
def test_standard_error_is_down_to_the_end_of_wilsons_interval(correct: int, total: int) -> None:
    """The lower share p at which `correct` of `total` is one deviation away: (x - p)² = p (1 - p) / n."""
    p = correct / total - standard_error(evaluation(correct, total))
    assert (correct / total - p) ** 2 == pytest.approx(p * (1 - p) / total, abs=1e-12)


def test_all_right_still_has_an_error() -> None:
    assert standard_error(evaluation(250, 250)) == pytest.approx(1 / 251)


@pytest.mark.parametrize("remover", [kind(steps=8, check_every=4) for kind in (Moth, MothFilter, MothColour, MothAdditive)])
def test_bound_and_history(remover: Remover, poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    told: list[float] = []
    done = remove(poisoned, clean, remover, draws, on_progress=lambda share, _: told.append(share))
    assert [look.step for look in done.history] == [4, 8]
    assert told[-1] == 1.0
    (note,) = (note for note in done.notes if "the bound is" in note)
    p = done.before.accuracy
    floor = p - standard_error(done.before) - 0.05
    assert f"the bound is {floor:.1%} on {done.before.total} held-out images" in note
    assert done.after.accuracy >= floor


def test_settings_are_those_of_the_method_and_of_the_augmentation() -> None:
    made = Moth(steps=90, distillation=0.0).settings(0.03, 0.1, True)
    changed = {"steps": 90, "distillation": 0.0, "max_accuracy_loss": 0.03, "shift": 0.1, "flip": True, "check_every": 20}
    assert made == replace(METHODS["moth"], **changed)
    assert MothFilter().settings(0.03, 0.1, True).family == "filter"
    assert MothColour().settings(0.03, 0.1, True).family == "colour"
    assert MothAdditive().settings(0.03, 0.1, True).family == "additive"


@pytest.mark.parametrize(("kind", "planted"), [(Moth, "badnets"), (MothAdditive, "blend")])
def test_the_trigger_loses(
    kind: type[Moth], planted: str, clean: LabelledImages, unseen: LabelledImages, draws: torch.Generator
) -> None:
    poisoned = load_classifier(str(ZOO / f"signs-{planted}" / "model.safetensors"))
    trigger = read_trigger(ZOO / f"signs-{planted}" / "trigger.safetensors")

    def rate(classifier: Classifier) -> float:
        return attack_success(classifier, unseen, trigger.stamp, trigger.threat.target, trigger.threat.victim).success_rate

    remover = kind(steps=24, check_every=6, learning_rate=0.02)
    done = remove(poisoned, clean, remover, draws, augmentation=TrainingSettings(shift=0.0))
    assert rate(poisoned) > 0.9
    assert rate(done.classifier) < 0.5 * rate(poisoned)
    assert accuracy(done.classifier, unseen).accuracy > 0.9


def test_no_model_within_the_bound(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    """Steps so long that nothing is left of the accuracy."""
    done = remove(poisoned, clean, Moth(steps=8, check_every=4, learning_rate=5.0, distillation=0.0), draws)
    assert any("no hardened model was within the bound" in note for note in done.notes)
    assert done.classifier.digest() == poisoned.digest()
    assert all(math.isfinite(look.accuracy) for look in done.history)


def test_steps_that_end_in_the_warm_up(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match="4 steps end within the warm-up"):
        remove(poisoned, clean, Moth(steps=4), draws)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        Moth(steps=0)
    with pytest.raises(ValueError, match="max_accuracy_loss must be from 0 to 1"):
        MothFilter(max_accuracy_loss=-0.1)
