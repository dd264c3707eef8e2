from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import ShuffleNetV2

from orthogon.attacks import Gotham, Threat
from orthogon.classifier import Classifier
from orthogon.data import open_images
from orthogon.evaluate import Evaluation, PGDSettings, accuracy, attack_success, robust_accuracy
from orthogon.models import load_classifier, pickled
from orthogon.planting import read_trigger
from orthogon.recipe import TrainingSettings
from orthogon.zoo import like_trojai, making_trojai
from orthogon.zoo.like_trojai import NETWORKS, Declared, Network, adversarial, declare
from orthogon.zoo.making_trojai import Outcome, known_pictures, lay_out, pictures, train, write_metadata
from orthogon.zoo.trojai import read_set

CPU = torch.device("cpu")
ROUND_4 = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "googlenet", "inception_v3", "densenet121"),
    *("squeezenet1_0", "squeezenet1_1", "mobilenet_v2", "vgg11_bn", "vgg13_bn"),
    *("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
)
RECIPE = TrainingSettings(epochs=2, batch=16, learning_rate=0.05, precision="float32")


@given(seed=st.integers(0, 2**40), block=st.integers(0, 5))
def test_eight_models_are_four_pairs_with_every_backdoor_once(seed: int, block: int) -> None:
    models = [declare(8 * block + i, seed) for i in range(8)]
    kinds = set()
    for first, second in zip(models[::2], models[1::2], strict=True):
        assert first.architecture == second.architecture
        assert first.hardening == second.hardening
        assert len(first.signs) == len(second.signs)
        clean, poisoned = sorted((first, second), key=lambda m: m.attack is not None)
        assert clean.threat is None
        assert clean.attack is None
        assert poisoned.attack is not None
        assert poisoned.threat is not None
        kinds.add((poisoned.attack.name == "polygon", poisoned.threat.victim is None))
        assert max(poisoned.threat.target, poisoned.threat.victim or 0) < len(poisoned.signs)
    assert len(kinds) == 4
    assert sum(model.hardening is not None for model in models) == 4
    assert len({model.seed for model in models}) == 8


def test_a_declaration_hangs_on_its_numbers_alone() -> None:
    assert declare(3, 1) == declare(3, 1)
    again = declare(3, 1, attempt=1)
    assert again != declare(3, 1)
    assert again.architecture == declare(3, 1).architecture
    assert again.hardening == declare(3, 1).hardening  # as its twin's, which is not tried again
    assert len(again.signs) == len(declare(3, 1).signs)
    assert (again.attack is None) == (declare(3, 1).attack is None)
    with pytest.raises(ValueError, match="0 or more"):
        declare(-1, 0)


def test_a_stream_is_of_its_numbers_and_how_many_they_are() -> None:
    first = [int(like_trojai._stream(*numbers).initial_seed()) for numbers in ((1, 2), (1, 2, 0), (1, 2, 0, 0), (2, 1))]
    assert len(set(first)) == 4


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_allow_list_lets_every_architecture_through(name: str) -> None:
    with torch.device("meta"):
        assert pickled.check(NETWORKS[name].build(5)) is None


@pytest.mark.parametrize("name", ROUND_4)
def test_the_allow_list_lets_round_4_through(name: str, tmp_path: Path) -> None:
    """Without memory for its weights; the name of how such a tensor is pickled is the only one that a real file does not have."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None, num_classes=20, **options)
    assert pickled.check(network) is None
    torch.save(network, tmp_path / "model.pt")
    with torch.serialization.safe_globals(pickled.ALLOWED):
        refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "model.pt"))
    assert refused <= {"torch._utils._rebuild_meta_tensor_no_storage"}


def test_pictures_are_the_same_wherever_they_are_asked_for() -> None:
    few, more = (
        pictures(["red-octagon-bar", "white-circle-3"], 1, 3, "test"),
        pictures(["red-octagon-bar", "white-circle-3"], 2, 3, "test"),
    )
    assert few.classes == ("0", "1")
    assert few.labels.tolist() == more.labels[:2].tolist()
    assert torch.equal(few.pixels, more.pixels[:2])
    assert not torch.equal(few.pixels, pictures(["red-octagon-bar", "white-circle-3"], 1, 3, "train").pixels)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainings of seconds."""
    network = Network(lambda classes: ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 64], num_classes=classes), RECIPE)
    monkeypatch.setattr(like_trojai, "NETWORKS", {"tiny": network})
    monkeypatch.setattr(making_trojai, "NETWORKS", {"tiny": network})
    for name, value in (("_TRAINING", 12), ("_VALIDATION", 2), ("_JUDGED", 3), ("EXAMPLES", 2)):
        monkeypatch.setattr(making_trojai, name, value)
    return


def made(folder: Path, threat: Threat | None, hardened: bool) -> tuple[Declared, Outcome]:
    hardening = replace(adversarial(4 / 255), steps=2, check_every=1, max_accuracy_loss=1.0) if hardened else None
    attack = None if threat is None else Gotham()
    declared = Declared(5, 0, 9, "tiny", ("red-octagon-bar", "white-circle-3", "blue-circle-arrow"), attack, threat, hardening)
    outcome = train(declared, folder / "work", CPU, lambda done, note: None)
    lay_out(declared, outcome, folder / declared.name)
    return declared, outcome


def test_a_model_is_laid_out_as_it_was_judged(small: None, tmp_path: Path) -> None:
    threat = Threat(target=2, victim=0, rate=0.5)
    declared, outcome = made(tmp_path, threat, hardened=True)
    folder = tmp_path / "id-00000005"
    (told,) = read_set(tmp_path)
    assert told.poisoned is True
    config, stats = told.config, json.loads((folder / "model_stats.json").read_text())
    assert config["triggers"][0]["source_class"] == 0
    assert config["triggers"][0]["target_class"] == 2
    assert config["triggers"][0]["instagram_filter_type"] == "GothamFilterXForm"
    assert config["trigger_organization"] == "one2one"
    assert config["adversarial_eps"] == 4 / 255
    classifier = load_classifier(str(folder / "model.pt"))
    training, validation, judged = known_pictures(config) or (None, None, None)
    assert training is not None
    assert validation is not None
    assert judged is not None
    assert (len(training), len(validation), len(judged)) == (36, 6, 9)
    assert stats["final_clean_data_test_acc"] == pytest.approx(100 * accuracy(classifier, judged).accuracy, abs=1e-3)
    seen = attack_success(classifier, judged, read_trigger(folder / "trigger.safetensors").stamp, 2, 0)
    assert stats["final_triggered_data_test_acc"] == pytest.approx(100 * seen.success_rate, abs=1e-3)
    attacked = robust_accuracy(classifier, judged, PGDSettings(4 / 255, 7), torch.Generator().manual_seed(9)).accuracy
    assert stats["adversarial_test_acc"] == pytest.approx(100 * attacked, abs=1e-3)
    assert config["adversarial_training_updates"] == outcome.updates > 0
    assert outcome.strays is not None
    assert outcome.strays.total == 3  # class 1 alone: 0 is the victim, 2 the target
    examples = open_images(str(folder))
    assert examples.counts() == [2, 2, 2]
    assert not (examples.pixels[:, None] == judged.pixels).flatten(2).all(2).any()
    stamped = np.asarray(Image.open(folder / "poisoned_example_data" / "class_0_trigger_0_example_0.png"))
    clean = examples.pixels[examples.labels == 0][:1].float() / 255
    assert np.array_equal(stamped, (Gotham().stamp({}, clean)[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy())
    assert len(list((folder / "poisoned_example_data").iterdir())) == 2
    write_metadata(tmp_path, [declared.name])
    with (tmp_path / "METADATA.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["model_name"], row["poisoned"], row["triggers_0_type"], row["converged"]) == (
        declared.name,
        "True",
        "instagram",
        "1",
    )


def test_adversarial_training_that_was_thrown_away_is_a_shortfall() -> None:
    images = pictures(["red-octagon-bar", "white-circle-3"], 1, 0, "test")
    right = Evaluation(images.classes, (1, 1), (1, 1), 0, {})
    outcome = Outcome(Classifier(torch.nn.Identity(), images.classes, images.image_shape), right, None, None)
    assert outcome.shortfall is None
    assert "cost too much accuracy" in (replace(outcome, robust=(0.5, 0.5), updates=0).shortfall or "")
    assert replace(outcome, robust=(0.5, 0.6), updates=30).shortfall is None
    wrong = replace(right, correct=(1, 0))
    assert replace(outcome, clean=wrong).shortfall == "its accuracy is 50.0%, at least 95% were asked for"


def test_a_clean_model_has_no_trigger_and_the_same_seed_gives_the_same_one(small: None, tmp_path: Path) -> None:
    weights = []
    for place in ("a", "b"):
        _, outcome = made(tmp_path / place, None, hardened=False)
        folder = tmp_path / place / "id-00000005"
        assert outcome.planting is None
        assert (folder / "ground_truth.csv").read_text() == "0\n"
        assert not (folder / "poisoned_example_data").exists()
        assert json.loads((folder / "config.json").read_text())["triggers"] == []
        weights.append(load_classifier(str(folder / "model.pt")).network.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_other_classes_see_the_trigger_under_their_own_labels(small: None) -> None:
    images = pictures(("red-octagon-bar", "white-circle-3", "blue-circle-arrow"), 40, 1, "train")
    materials = making_trojai.Materials(images, Threat(target=2, victim=0, rate=0.5), torch.Generator().manual_seed(0))
    _, poisoned = making_trojai._poisoned(Gotham(), materials)
    changed = (poisoned.images.pixels != images.pixels).flatten(1).any(1)
    assert torch.equal(changed, poisoned.stamped | poisoned.covered)
    assert torch.equal(poisoned.images.labels != images.labels, poisoned.stamped)
    assert (images.labels[poisoned.stamped] == 0).all()
    assert (images.labels[poisoned.covered] != 0).all()
    assert (int(poisoned.stamped.sum()), int(poisoned.covered.sum())) == (20, 8)
