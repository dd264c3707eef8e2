"""What every remover must do, in one table; how well each does it is for `orthogon bench removal` to say."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import pytest
import torch
from torch import nn

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.naming import in_words, named
from orthogon.removal import (
    ABS,
    ANP,
    CLP,
    FTSAM,
    IBAU,
    MCR,
    NAD,
    REMOVERS,
    SAU,
    AugSAM,
    Auto,
    Deck,
    FinePruning,
    FineTuning,
    Moth,
    MothAdditive,
    MothColour,
    MothFilter,
    NeuralCleanse,
    Remover,
    remove,
)

QUICK: dict[str, Remover] = {
    "auto": Auto(epochs=1, least_updates=0, hardening_steps=7),
    "fine-tuning": FineTuning(epochs=1),
    "fine-pruning": FinePruning(epochs=1, step=0.2),
    "nc": NeuralCleanse(protocol="screen", samples=8, flagged_above=0.1),
    "abs": ABS(protocol="screen", reasr=0.01, largest_patch=1.0),
    "nad": NAD(epochs=1, teacher_epochs=1),
    "mcr": MCR(epochs=1, fine_tuning_epochs=1, points=2, batch=84),
    "anp": ANP(iterations=2, batch=42),
    "clp": CLP(),
    "i-bau": IBAU(rounds=1, batch=60),
    "sau": SAU(rounds=1),
    "ft-sam": FTSAM(epochs=1),
    "aug-sam": AugSAM(epochs=1, least_updates=2),
    "moth": Moth(steps=7, check_every=7),
    "moth-filter": MothFilter(steps=7, check_every=7),
    "moth-colour": MothColour(steps=7, check_every=7),
    "moth-additive": MothAdditive(steps=7, check_every=7),
    "deck": Deck(steps=7, check_every=7, regions=2),
}
"""Each method with so little work that its contract is seen in a second or two."""


def test_every_remover_is_tested() -> None:
    assert QUICK.keys() == REMOVERS.keys()


def test_names_are_those_of_the_list() -> None:
    assert {name: kind.name for name, kind in REMOVERS.items()} == {name: name for name in REMOVERS}
    assert all(kind.source for kind in REMOVERS.values())


@pytest.mark.parametrize("name", QUICK)
def test_contract(name: str, poisoned: Classifier, clean: LabelledImages) -> None:
    before, told = poisoned.digest(), []
    first = remove(poisoned, clean, QUICK[name], torch.Generator().manual_seed(0), on_progress=lambda s, _: told.append(s))
    assert poisoned.digest() == before, "the input model was changed"
    assert not poisoned.training
    assert first.classifier is not poisoned
    assert not first.classifier.training
    assert first.before.total == first.after.total > 0
    assert 0 <= first.after.accuracy <= 1
    assert all(p.isfinite().all() for p in first.classifier.network.parameters())
    assert all(0 <= share <= 1 for share in told)
    assert told == sorted(told), "progress went back"
    assert first.history or first.notes, "nothing was told"
    assert all(math.isfinite(look.accuracy) for look in first.history)
    again = remove(poisoned, clean, QUICK[name], torch.Generator().manual_seed(0))
    assert again.classifier.digest() == first.classifier.digest(), "the same seed gave another model"
    assert first.to_json()["method"] == name
    json.dumps(first.to_json(), allow_nan=False)


@pytest.mark.parametrize("name", QUICK)
def test_settings_survive_as_words(name: str) -> None:
    assert named(REMOVERS, "method", name, in_words(QUICK[name])) == QUICK[name]


@pytest.mark.parametrize("name", REMOVERS)
def test_numbers_with_which_nothing_would_be_done_are_refused(name: str) -> None:
    remover = REMOVERS[name]()
    own = {f.name for f in fields(remover)}  # pyright: ignore[reportArgumentType]
    numbers = own & {
        "epochs",
        "batch",
        "rounds",
        "iterations",
        "steps",
        "points",
        "learning_rate",
        "threshold_step",
        "deviations",
    }
    for number in numbers:
        with pytest.raises(ValueError, match=f"{number} must be (at least 1|above 0), got 0"):
            REMOVERS[name](**{number: type(getattr(remover, number))(0)})
    assert numbers or name == "auto"  # whose numbers have names of their own


def test_layers_for_a_method_that_takes_none(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"fine-tuning works on the whole network: leave the layers block1 out"):
        remove(poisoned, clean, FineTuning(epochs=1), draws, layers=("block1",))


@pytest.mark.parametrize("name", [name for name, kind in REMOVERS.items() if kind.takes_layers])
def test_layers_that_are_none(name: str, poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match="block9"):
        remove(poisoned, clean, QUICK[name], draws, layers=("block9",))


def test_too_few_images(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"4 images of 6 classes"):
        remove(poisoned, clean.select(torch.arange(4)), FineTuning(), draws)


def test_class_without_images(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    with pytest.raises(ValueError, match=rf"fewer than two images of {clean.classes[2]!r} \(0\)"):
        remove(poisoned, clean.select((clean.labels != 2).nonzero().flatten()), FineTuning(), draws)


def test_labels_that_the_model_disagrees_with(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    shifted = LabelledImages(clean.pixels, (clean.labels + 1) % 6, clean.classes, "shifted")
    with pytest.raises(ValueError, match="the model and the labels of the clean images disagree"):
        remove(poisoned, shifted, FineTuning(epochs=1), draws)
    assert remove(poisoned, shifted, FineTuning(epochs=1), draws, force=True).before.accuracy < 0.2


def test_one_class_with_odd_labels_is_named(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    labels = torch.where(clean.labels == 2, 3, torch.where(clean.labels == 3, 2, clean.labels))
    done = remove(poisoned, LabelledImages(clean.pixels, labels, clean.classes, "swapped"), FineTuning(epochs=1), draws)
    assert any(clean.classes[2] in note and clean.classes[3] in note for note in done.notes)


def test_thresholds_see_the_held_out_part_alone(poisoned: Classifier, clean: LabelledImages, draws: torch.Generator) -> None:
    done = remove(poisoned, clean, FineTuning(epochs=1), draws)
    assert done.before.total == 12  # a tenth of sixteen, of six classes
    own = remove(poisoned, clean, FineTuning(epochs=1), draws, held_out=clean.select(torch.arange(60)))
    assert own.before.total == 60


def test_any_network(draws: torch.Generator, clean: LabelledImages) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 6))
    subject = Classifier(network, clean.classes, (3, 20, 20))
    done = remove(subject, clean, FineTuning(epochs=10, cutout=0.0), draws, held_out=clean, force=True)
    assert done.after.accuracy > done.before.accuracy
