from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.pairs import Pair
from orthogon.scanning import Decision, scan
from orthogon.scanning.k_arm import KArm, _Bandit, _Played

Toy = Callable[..., Classifier]
QUICK = KArm(steps=60, pull=6, samples=8, share=0.5)


def played(pair: Pair, size: float, **facts: float) -> _Played:
    return _Played(pair, 100.0, 0, None, size, **facts)  # pyright: ignore[reportArgumentType]


def leaning(classifier: Classifier, target: int, victim: int | None = None) -> Classifier:
    """The classifier, for which the target comes second on all images, or on the victim's."""
    inner = classifier.network.forward

    def forward(images: torch.Tensor) -> torch.Tensor:
        logits = inner(images)
        lift = torch.nn.functional.one_hot(torch.tensor(target), logits.shape[1]).float()
        often = 1.0 if victim is None else (logits.argmax(1) == victim).float()[:, None]
        return logits + 1.2 * often * lift

    classifier.network.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
    return classifier


def test_pre_screening_names_the_class_that_is_likely_everywhere(toy: Toy, rows: LabelledImages) -> None:
    arms, kind = QUICK._candidates(leaning(toy(), 3), rows)
    assert (arms, kind) == ([Pair(None, 3)], "universal")
    arms, kind = KArm()._candidates(leaning(toy(), 3, victim=1), rows)
    assert kind == "label-specific"
    assert Pair(1, 3) in arms
    assert all(pair.victim != pair.target for pair in arms)


def test_the_scores_of_the_rule(toy: Toy) -> None:
    scanner = KArm(universal_bound=0.04, pair_bound=0.02, ratio=10.0)
    universal = scanner._suspect(played(Pair(None, 1), 2.0), None)
    assert universal.score == pytest.approx(math.log(4.0 / 2.0))
    assert scanner._suspect(played(Pair(None, 1), 8.0), None).score == pytest.approx(-math.log(2.0))
    far, near = played(Pair(1, 0), 40.0), played(Pair(1, 0), 4.0)
    assert scanner._suspect(played(Pair(0, 1), 1.0), far).score == pytest.approx(math.log(2.0))  # the bound is what is nearer
    assert scanner._suspect(played(Pair(0, 1), 1.0), near).score == pytest.approx(math.log(0.4))  # the way back is too near
    assert scanner._suspect(played(Pair(0, 1), 1.0), played(Pair(1, 0), math.inf)).score == pytest.approx(math.log(2.0))
    assert scanner._suspect(played(Pair(0, 1), 1.0), None).score == 0.0  # another arm was compared
    assert scanner._suspect(played(Pair(0, 1), math.inf), None).score == pytest.approx(math.log(0.02))
    assert KArm(pair_bound=0.02, symmetric=False)._suspect(played(Pair(0, 1), 1.0), None).score == pytest.approx(math.log(2.0))


def test_the_bandit_warms_up_then_takes_the_fastest_or_any(toy: Toy, rows: LabelledImages, generator: torch.Generator) -> None:
    pairs = [Pair(0, 1), Pair(2, 3), Pair(4, 5)]
    bandit = _Bandit(KArm(epsilon=0.0, samples=4), toy(), rows, pairs, generator)
    cold, slow, fast = arms = [
        played(pairs[0], 50.0, improved=1, epochs=30),
        played(pairs[1], 50.0, improved=2, epochs=20, speed=1.0),
        played(pairs[2], 50.0, improved=2, epochs=20, speed=9.0),
    ]
    assert bandit._next(arms) is cold
    cold.epochs = 200  # has had its time
    assert bandit._next(arms) is fast
    slow.size = 0.01  # beta / size outweighs the speed
    assert bandit._next(arms) is slow
    explorer = _Bandit(KArm(epsilon=1.0, samples=4), toy(), rows, pairs, generator)
    assert {explorer._next(arms).pair for _ in range(40)} == set(pairs)
    assert bandit._is_done(played(pairs[0], math.inf, epochs=200))
    assert not bandit._is_done(played(pairs[0], 3.0, epochs=200, improved=3))
    assert bandit._is_done(played(pairs[0], 3.0, improved=60))


def test_a_universal_backdoor_is_found(toy: Toy, rows: LabelledImages, generator: torch.Generator) -> None:
    verdict = scan(leaning(toy(target=2), 2), rows, QUICK, generator)
    assert verdict.decision is Decision.BACKDOORED
    suspect = verdict.suspects[0]
    assert suspect.pair == Pair(None, 2)
    assert suspect.inversion is not None
    share = suspect.inversion.size / 36
    assert suspect.score == pytest.approx(math.log(QUICK.universal_bound / share))
    facts = verdict.evidence[0].facts
    assert facts["screened_by"] == "universal"
    assert facts["played"][0]["epochs"] <= 60


def test_without_candidates_the_model_is_clean(toy: Toy, rows: LabelledImages, generator: torch.Generator) -> None:
    verdict = scan(toy(), rows, KArm(share=0.0, samples=4, pair_share=1.0, universal_share=1.0), generator)
    assert verdict.decision is Decision.CLEAN
    assert verdict.evidence[0].facts["arms"] == []


@pytest.mark.parametrize(
    "changes", [{"epsilon": 1.5}, {"share": -0.1}, {"steps": 0}, {"ratio": 0.0}, {"warm_up": -1}, {"given_up": 0}]
)
def test_settings_out_of_range(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        KArm(**changes)  # pyright: ignore[reportArgumentType]
