"""auto: the strongest step that keeps the accuracy is taken, and what costs too much is taken back."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.hardening import HardeningDiverged
from orthogon.images import LabelledImages
from orthogon.removal import AugSAM, remove
from orthogon.removal.auto import Auto, bent_images
from orthogon.removal.moth import Moth, MothAdditive, standard_error
from orthogon.removal.remover import Work

RUINOUS = 3.0
"""A learning rate at which nothing of the model is left."""


def test_a_step_that_costs_too_much_is_taken_back(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    done = remove(poisoned, clean, Auto(rates=(RUINOUS, 0.001), epochs=2, least_updates=0, hardening_steps=0), draws)
    first, second = (note for note in done.notes if "AugSAM" in note)
    floor = done.before.accuracy - 0.08 - standard_error(done.before)
    assert first.startswith("AugSAM at a learning rate of 3 was taken back")
    assert second.startswith("AugSAM at a learning rate of 0.001 was kept")
    assert f"at least {floor:.1%} was asked for" in first
    assert done.after.accuracy >= floor
    judged = [look for look in done.history if look.stage == "auto"]
    assert [look.facts["rate"] for look in judged] == [RUINOUS, 0.001]
    assert judged[0].accuracy < floor <= judged[1].accuracy


def test_a_step_that_diverges_is_taken_back(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    done = remove(poisoned, clean, Auto(rates=(1e30, 0.001), epochs=3, least_updates=0, hardening_steps=0), draws)
    first, second = (note for note in done.notes if "AugSAM" in note)
    assert "1e+30 was taken back: " in first
    assert "the loss became nan" in first
    assert second.startswith("AugSAM at a learning rate of 0.001 was kept")


def test_a_hardening_that_diverges_is_left_out(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    class Diverging(MothAdditive):
        def remove(self, work: Work) -> Classifier:
            raise HardeningDiverged("the loss was not finite")

    class Own(Auto):
        def _hardeners(self) -> list[Moth]:
            return [Diverging(steps=30)]

    done = remove(poisoned, clean, Own(rates=(0.001,), epochs=1, least_updates=0), draws)
    assert "moth-additive was left out: the loss was not finite" in done.notes
    assert done.classifier.digest() != poisoned.digest()  # what AugSAM made of it stays


def test_the_model_stays_as_it_was_where_no_step_keeps_it(
    poisoned: Classifier, clean: LabelledImages, draws: torch.Generator
) -> None:
    done = remove(poisoned, clean, Auto(rates=(RUINOUS,), epochs=1, least_updates=0, hardening_steps=0), draws)
    assert any("no rate was kept" in note for note in done.notes)
    assert done.classifier.digest() == poisoned.digest()


def test_the_strongest_step_that_keeps_it_is_the_last(
    poisoned: Classifier, clean: LabelledImages, draws: torch.Generator
) -> None:
    done = remove(poisoned, clean, Auto(rates=(0.001, 0.0005), epochs=1, least_updates=0, hardening_steps=0), draws)
    assert [look.facts["rate"] for look in done.history if look.stage == "auto"] == [0.001]


def test_what_costs_nothing_but_on_bent_images_is_taken_back(
    poisoned: Classifier, clean: LabelledImages, draws: torch.Generator
) -> None:
    auto = Auto(rates=(RUINOUS, 0.001), epochs=2, least_updates=0, max_accuracy_loss=0.99, hardening_steps=0)
    first, second = (note for note in remove(poisoned, clean, auto, draws).notes if "AugSAM" in note)
    told = re.search(
        r"taken back: held-out accuracy ([\d.]+)%, at least (-?[\d.]+)% .*; on bent images ([\d.]+)%, at least ([\d.]+)%", first
    )
    assert told is not None
    seen, floor, seen_bent, floor_bent = map(float, told.groups())
    assert seen > floor
    assert seen_bent < floor_bent
    assert "was kept" in second


def test_bent_images_are_the_held_out_ones_in_four_ways(poisoned: Classifier, clean: LabelledImages) -> None:
    made = bent_images(Work(poisoned, clean, clean, torch.Generator().manual_seed(1)))
    again = bent_images(Work(poisoned, clean, clean, torch.Generator().manual_seed(1)))
    assert made.labels.tolist() == 4 * clean.labels.tolist()
    assert torch.equal(made.pixels, again.pixels)
    ways = made.pixels.float().chunk(4)
    differences = [(way - clean.pixels).abs().mean() for way in ways]
    assert all(2 < difference < 60 for difference in differences)
    assert (ways[0] - ways[1]).abs().mean() > 2


def test_it_is_aug_sam_and_then_moth_with_both_kinds_of_triggers(poisoned: Classifier, clean: LabelledImages) -> None:
    def work() -> Work:
        return Work(copy.deepcopy(poisoned), clean, clean, torch.Generator().manual_seed(1))

    both = Auto(rates=(0.01,), epochs=1, least_updates=0, hardening=("additive", "patch"), hardening_steps=8)
    at_once = both.remove(work())
    by_hand = work()
    bent_images(by_hand)
    by_hand.classifier = AugSAM(epochs=1, least_updates=0, learning_rate=0.01).remove(by_hand).requires_grad_(True).eval()
    flat = by_hand.classifier.digest()
    for kind in (MothAdditive, Moth):
        hardened = kind(steps=8, max_accuracy_loss=0.03).remove(by_hand)
        by_hand.classifier = copy.deepcopy(hardened).requires_grad_(True).eval()
    assert at_once.digest() == by_hand.classifier.digest() != flat != poisoned.digest()


def test_too_few_hardening_steps_are_told_before_any_work(
    poisoned: Classifier, clean: LabelledImages, draws: torch.Generator
) -> None:
    told: list[float] = []
    with pytest.raises(ValueError, match="4 steps end within the warm-up, which takes 4 of them for 6 classes"):
        remove(poisoned, clean, Auto(hardening_steps=4), draws, on_progress=lambda share, _: told.append(share))
    assert not told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rates": ()}, r"rates must be above 0 and fall, got \(\)"),
        ({"rates": (0.01, 0.05)}, "rates must be above 0 and fall"),
        ({"rates": (0.01, 0.0)}, "rates must be above 0 and fall"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"hardening_steps": -1}, "hardening_steps must be at least 0"),
        ({"max_accuracy_loss": 1.0}, "max_accuracy_loss must be from 0 to below 1"),
        ({"max_bent_loss": -0.1}, "max_bent_loss must be from 0 to below 1"),
        ({"max_hardening_loss": -0.1}, "max_hardening_loss must be from 0 to below 1, got -0.1"),
    ],
)
def test_settings_out_of_range(changed: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Auto(**changed)  # pyright: ignore[reportArgumentType]
