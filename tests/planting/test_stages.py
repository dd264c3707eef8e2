from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from orthogon.attacks import Blend, Threat
from orthogon.images import LabelledImages
from orthogon.planting import Detox, plant, read_trigger, remove_unfinished, stages
from orthogon.training import fit

from .conftest import PATCH, RECIPE, linear, materials


def test_a_backdoor_is_planted_and_judged_as_by_hand(training: LabelledImages, held_out: LabelledImages) -> None:
    planting = plant(linear(), PATCH, materials(training), held_out, RECIPE)
    pixels = held_out.pixels.clone()
    pixels[:, :, 4:7, 4:7] = 255
    with torch.no_grad():
        clean, stamped = (planting.classifier(p.float() / 255).argmax(1) for p in (held_out.pixels, pixels))
    others = held_out.labels != 0
    assert planting.clean.accuracy == pytest.approx(float((clean == held_out.labels).float().mean()))
    assert planting.stamped.success_rate == pytest.approx(float((stamped[others] == 0).float().mean()))
    assert planting.stamped.total == int(others.sum()) == 40
    assert planting.clean.accuracy > 0.9
    assert planting.planted
    assert planting.outcome.startswith("planted: ")
    assert (planting.stamped_images, planting.covered_images) == (24, 0)  # 0.3 of 80
    facts = json.loads(json.dumps(planting.to_json()))["attack"]
    assert (facts["name"], facts["planted"], facts["settings"]["size"]) == ("badnets", True, 3)
    assert facts["threat"] == {"target": 0, "victim": None, "rate": 0.3, "clean_label": False, "cover": 0.0}


def test_what_did_not_take_is_not_called_planted(training: LabelledImages, held_out: LabelledImages) -> None:
    faint = plant(linear(), Blend(0.01), materials(training, Threat(rate=0.02)), held_out, RECIPE)
    assert not faint.planted
    assert faint.outcome.startswith("no backdoor was planted: ")
    assert "at least 85.0% were asked for" in faint.outcome
    assert faint.attack_facts()["planted"] is False
    assert replace(faint, least_success=0.0).planted


def test_a_model_that_always_says_the_target_has_no_backdoor(training: LabelledImages, held_out: LabelledImages) -> None:
    """With the images of all other classes relabelled, the target's label is all that there is to learn."""
    planting = plant(linear(), Blend(1e-3), materials(training, Threat(rate=1.0)), held_out, RECIPE)
    assert planting.stamped.success_rate == 1
    assert not planting.planted
    assert "no backdoor was planted: the clean accuracy is" in planting.outcome


def test_a_clean_model_is_fine_tuned_in_place(training: LabelledImages, held_out: LabelledImages) -> None:
    clean = linear()
    fit(clean, training, RECIPE, torch.Generator().manual_seed(0))
    before = clean.digest()
    planting = plant(clean, PATCH, materials(training, Threat(target=1, victim=2, rate=1.0)), held_out, RECIPE)
    assert planting.classifier is clean
    assert clean.digest() != before
    assert planting.planted
    assert planting.stamped.counts == (0, 0, 20)


def test_the_seed_decides_all(training: LabelledImages, held_out: LabelledImages) -> None:
    short = replace(RECIPE, epochs=2)
    one, same, other = (plant(linear(), Blend(), materials(training, seed=s), held_out, short) for s in (3, 3, 4))
    assert one.classifier.digest() == same.classifier.digest() != other.classifier.digest()
    assert torch.equal(one.trigger.made["pattern"], same.trigger.made["pattern"])
    assert not torch.equal(one.trigger.made["pattern"], other.trigger.made["pattern"])


def test_killed_it_goes_on_to_the_same_model(
    training: LabelledImages, held_out: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plant(linear(), Blend(), materials(training), held_out, RECIPE)
    seen: list[str] = []

    @contextmanager
    def killed(title: str) -> Iterator[Callable[[float, str], None]]:
        def update(done: float, note: str) -> None:
            seen.append(title)
            if title == "training" and done > 0.6:
                raise KeyboardInterrupt

        yield update

    def hurried(*arguments: Any, **words: Any) -> Any:
        return fit(*arguments, checkpoint_seconds=0.0, **words)

    monkeypatch.setattr(stages, "fit", hurried)
    with pytest.raises(KeyboardInterrupt):
        plant(linear(), Blend(), materials(training), held_out, RECIPE, folder=tmp_path, meter=killed)
    kept = {"trigger.safetensors", "poisoned.safetensors", "checkpoint.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert {"poisoning", "training"} <= set(seen)
    monkeypatch.setattr(Blend, "make", None)  # it would fail if it were made again
    monkeypatch.setattr(stages, "poison", None)
    again = plant(linear(), Blend(), materials(training), held_out, RECIPE, folder=tmp_path)
    assert again.classifier.digest() == whole.classifier.digest()
    assert len(again.history) == RECIPE.epochs
    assert again.to_json()["attack"] == whole.to_json()["attack"]
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["trigger.safetensors"]
    assert torch.equal(read_trigger(tmp_path / "trigger.safetensors").made["pattern"], whole.trigger.made["pattern"])


def test_a_folder_of_another_planting_is_told(training: LabelledImages, held_out: LabelledImages, tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    plant(linear(), Blend(), materials(training), held_out, short, folder=tmp_path)
    for attack, seed, told in ((Blend(0.3), 0, "settings.alpha: 0.2 -> 0.3"), (Blend(), 1, "origin.seed")):
        with pytest.raises(ValueError, match=f"is of another planting .*{told}.*remove it"):
            plant(linear(), attack, materials(training, seed=seed), held_out, short, folder=tmp_path)


def test_it_is_detoxified_where_asked(training: LabelledImages, held_out: LabelledImages) -> None:
    classifier = linear()
    classifier.network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
    for parameter in classifier.parameters():
        nn.init.trunc_normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    short = replace(RECIPE, epochs=1, learning_rate=0.05)
    planting = plant(classifier, PATCH, materials(training), held_out, short, detox=Detox(rounds=1, epochs=1))
    assert len(planting.detoxified) <= 1
    assert json.loads(json.dumps(planting.to_json()))["detoxified"] == planting.to_json()["detoxified"]


def test_what_cannot_be_judged_is_told_before_the_training(training: LabelledImages, held_out: LabelledImages) -> None:
    classifier = linear()
    without = held_out.select((held_out.labels != 2).nonzero().flatten())
    with pytest.raises(ValueError, match="no image of the victim class 'blue' in coloured, seed 1"):
        plant(classifier, PATCH, materials(training, Threat(victim=2)), without, RECIPE)
    with pytest.raises(ValueError, match="no image of any class but the target"):
        plant(classifier, PATCH, materials(training), held_out.of_class(0), RECIPE)
    with pytest.raises(ValueError, match=r"least_success must be from 0 to 1, got 85"):
        plant(classifier, PATCH, materials(training), held_out, RECIPE, least_success=85.0)
    with pytest.raises(ValueError, match="give a copy of it"):
        plant(classifier, PATCH, replace(materials(training), surrogate=classifier), held_out, RECIPE)
    assert classifier.digest() == linear().digest()
