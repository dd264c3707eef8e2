"""What every scanner must do, on a real poisoned model of the zoo; the one that searches most, on a model of a few pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orthogon import load_classifier, open_images
from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.naming import settings_of
from orthogon.scanning import SCANNERS, Decision, Scanner, scan
from orthogon.scanning.abs import ABS
from orthogon.scanning.distance import Distance
from orthogon.scanning.ensemble import Ensemble
from orthogon.scanning.k_arm import KArm
from orthogon.scanning.mm_bd import MMBD
from orthogon.scanning.neural_cleanse import NeuralCleanse

from .conftest import CLASSES, NAMES, SIDE, Neurons, Rows

MODEL = Path(__file__).parents[2] / "zoo" / "signs-badnets" / "model.safetensors"
QUICK: dict[str, Scanner] = {
    "distance": Distance(families=("patch",), samples=8),
    "nc": NeuralCleanse("screen", samples=8),
    "abs": ABS(protocol="screen", neurons=2, stimulated_images=12, values=3),
    "k-arm": KArm(steps=8, pull=4, samples=6, pair_share=0.3),
    "mm-bd": MMBD(starts=2, steps=2),
    "ensemble": Ensemble(
        ("k-arm", "mm-bd"),
        ("k-arm.steps=8", "k-arm.pull=4", "k-arm.samples=6", "k-arm.pair_share=0.3", "mm-bd.starts=2", "mm-bd.steps=2"),
    ),
}


@pytest.fixture(scope="module")
def signs() -> LabelledImages:
    return open_images("signs:classes=6,size=20,per_class=8,seed=3", split="test")


def test_the_table_has_all() -> None:
    assert set(QUICK) == set(SCANNERS)


@pytest.mark.parametrize("name", QUICK)
def test_a_scan(name: str, toy: Callable[..., Classifier], rows: LabelledImages, signs: LabelledImages, short: None) -> None:
    scanner, small = QUICK[name], {"distance": toy(target=2), "abs": Classifier(Neurons(2), NAMES, (1, SIDE, SIDE))}
    classifier, images = (small[name], rows) if name in small else (load_classifier(str(MODEL)), signs)
    before = classifier.digest()
    told: list[float] = []
    verdict = scan(
        *(classifier, images if scanner.needs_images else None, scanner, torch.Generator().manual_seed(1)),
        on_progress=lambda share, note: told.append(share),
    )
    assert classifier.digest() == before
    assert not classifier.training
    assert told == sorted(told)
    assert told[-1] == 1.0
    (evidence,) = verdict.evidence
    assert math.isfinite(evidence.score)
    assert evidence.features
    assert all(map(math.isfinite, evidence.features.values()))
    scores = [suspect.score for suspect in evidence.suspects]
    assert scores == sorted(scores, reverse=True)
    for suspect in evidence.suspects:
        assert 0 <= suspect.pair.target < 6
        assert suspect.pair.victim != suspect.pair.target
        assert (suspect.inversion is None) == (suspect.family is None)
    record = json.loads(json.dumps(verdict.to_json(classifier.classes), allow_nan=False))
    assert record["settings"] == json.loads(json.dumps(settings_of(scanner)))
    assert record["verdict"] == ("backdoored" if evidence.score > scanner.threshold else "clean")


@pytest.mark.parametrize("name", ["k-arm", "mm-bd"])
def test_the_seed_decides(name: str, signs: LabelledImages, short: None) -> None:
    classifier = load_classifier(str(MODEL))
    seen = [scan(classifier, signs, QUICK[name], torch.Generator().manual_seed(seed)).evidence[0] for seed in (1, 1)]
    assert seen[0].score == seen[1].score
    assert seen[0].facts == seen[1].facts


class _NoGradient(Rows):
    """Finite logits, whose gradient is not; one class comes second on every image."""

    def forward(self, images: Tensor) -> Tensor:
        lift = 1.2 * torch.nn.functional.one_hot(torch.tensor(3), CLASSES)
        return super().forward(images) + lift + (0 * images.square().sum()).sqrt()


@pytest.mark.parametrize("name", ["distance", "k-arm"])
def test_searches_that_broke_are_no_clean_bill(name: str, rows: LabelledImages, short: None) -> None:
    classifier = Classifier(_NoGradient(), NAMES, (1, SIDE, SIDE))
    verdict = scan(classifier, rows, QUICK[name], torch.Generator().manual_seed(1))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert any("not finite" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("name", ["distance", "nc", "abs", "k-arm"])
@pytest.mark.parametrize(
    ("classes", "each", "told"), [(3, 10, "3 classes are too few"), (6, 4, "fewer than 5 images of a class")]
)
def test_too_little_to_compare_is_inconclusive(name: str, classes: int, each: int, told: str, rows: LabelledImages) -> None:
    chosen = torch.cat([(rows.labels == c).nonzero().flatten()[:each] for c in range(classes)])
    few = LabelledImages(rows.pixels[chosen], rows.labels[chosen], NAMES[:classes], "few")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, classes))
    verdict = scan(Classifier(network, NAMES[:classes], (1, SIDE, SIDE)), few, QUICK[name], torch.Generator().manual_seed(1))
    assert verdict.decision is Decision.INCONCLUSIVE
    assert any(told in reason for reason in verdict.reasons)
