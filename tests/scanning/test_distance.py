from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from orthogon.classifier import Classifier
from orthogon.images import LabelledImages
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.scanning import Decision, Suspect, distance, scan
from orthogon.scanning.distance import Distance, _Look, ranked
from orthogon.scanning.outliers import below_the_others, expected_largest, smooth_maximum, spread_of
from orthogon.scanning.sizes import CLEAN_SPREADS

Toy = Callable[..., Classifier]
QUICK = Distance(families=("patch",), samples=8)


def look(classifier: Classifier, images: LabelledImages, logs: dict[Pair, float], **settings: Any) -> _Look:
    return _Look(Distance(**settings), classifier, images, "patch", 8, torch.Generator().manual_seed(0), logs)


def test_the_threshold_is_what_sizes_of_no_meaning_seldom_reach() -> None:
    """Ten targets that differ as clean models' do, and pairs that differ from that by their least spread: few in a hundred."""
    draws, own = np.random.default_rng(0), ~np.eye(10, dtype=bool)

    def kinds(spread: float) -> list[float]:
        targets = draws.normal(0, spread, 10)
        pairs = targets + draws.normal(0, 0.3, (10, 10))
        columns = np.array([np.median(pairs[own[:, t], t]) for t in range(10)])
        middle, width = spread_of(pairs[own].tolist())
        nearer = ((np.minimum(middle, pairs.T) - pairs) / width)[own].max()
        return [max(below_the_others(((targets + columns) / 2).tolist(), spread)), nearer - expected_largest(45)]

    scores = [smooth_maximum([value for spread in CLEAN_SPREADS.values() for value in kinds(spread)]) for _ in range(600)]
    assert 0.005 < np.mean(np.array(scores) > Distance().flagged_above) < 0.05


def test_a_universal_trigger_explains_the_pairs_to_its_target() -> None:
    def suspect(victim: int | None, target: int, score: float, family: str = "patch") -> Suspect:
        return Suspect(Pair(victim, target), score, family)

    found = [suspect(2, 0, 3.5), suspect(None, 0, 2.8), suspect(None, 1, 0.5), suspect(3, 1, 0.9), suspect(4, 0, 4.0, "filter")]
    told = [(s.pair, s.family, s.score) for s in ranked(found)]
    assert told[:3] == [(Pair(4, 0), "filter", 4.0), (Pair(None, 0), "patch", 3.5), (Pair(2, 0), "patch", 3.5)]
    assert told[3:] == [(Pair(3, 1), "patch", 0.9), (Pair(None, 1), "patch", 0.5)]


def test_a_search_that_finds_nothing_counts_as_its_best_attempt_and_what_that_misses(toy: Toy, rows: LabelledImages) -> None:
    seen = look(toy(), rows, {})
    for outcome in (Outcome.ASR, Outcome.NOT_FINITE, Outcome.SAMPLES):
        assert seen._log(Inversion(Pair(0, 1), outcome, math.nan, math.nan, {})) == pytest.approx(math.log(36) + 3)
    assert seen._log(Inversion(Pair(0, 1), Outcome.FOUND, 9.0, 0.9, {})) == math.log(9)
    assert seen._log(Inversion(Pair(0, 1), Outcome.FOUND, 0.0, 0.9, {})) == pytest.approx(math.log(0.036))
    attempt = {"mask": torch.full((1, 6, 6), 0.5), "pattern": torch.zeros(1, 6, 6)}
    assert seen._log(Inversion(Pair(0, 1), Outcome.ASR, math.nan, 0.5, attempt)) == pytest.approx(math.log(18) + 3 * 0.4)
    assert seen._log(Inversion(Pair(0, 1), Outcome.ASR, math.nan, 0.95, attempt)) == pytest.approx(math.log(18))


def test_a_universal_backdoor_is_found_and_a_clean_model_is_not_flagged(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    told: list[float] = []
    verdict = scan(toy(target=2), rows, QUICK, generator, on_progress=lambda share, note: told.append(share))
    assert verdict.decision is Decision.BACKDOORED
    assert verdict.suspects[0].pair.target == 2
    assert told == sorted(told)
    assert told[-1] == 1.0
    features = verdict.evidence[0].features
    assert set(features) == {"patch.target", "patch.target_share", "patch.pair", "patch.pair_share"}
    assert verdict.score == pytest.approx(smooth_maximum([features["patch.target"], features["patch.pair"]]))
    clean = scan(toy(), rows, QUICK, generator)
    assert clean.decision is Decision.CLEAN
    assert clean.suspects == ()


def test_a_label_specific_backdoor_is_found_with_its_pair(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    verdict = scan(toy(target=2, victim=4), rows, QUICK, generator)
    assert verdict.decision is Decision.BACKDOORED
    assert verdict.suspects[0].pair == Pair(4, 2)


def test_of_many_classes_the_partial_probes_choose(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None
) -> None:
    seen = look(toy(target=2, victim=4), rows, {}, families=("patch",), samples=8, pairs_per_class=1)
    pairs = seen._pairs_to_screen(lambda share: None)
    assert len(pairs) <= 2 * 6
    assert Pair(4, 2) in pairs
    assert all(Pair(pair.target, pair.victim or 0) in pairs for pair in pairs)


def test_too_little_to_tell(toy: Toy, rows: LabelledImages, generator: torch.Generator) -> None:
    few = rows.select(torch.cat([(rows.labels == c).nonzero().flatten()[: 3 if c == 1 else 8] for c in range(6)]))
    verdict = scan(toy(), few, Distance(), generator)
    assert verdict.decision is Decision.INCONCLUSIVE
    assert "fewer than 5 images of a class: 'row 1' 3" in verdict.reasons


@pytest.mark.parametrize(
    ("changes", "told"), [({"families": ("sound",)}, "sound"), ({"families": ()}, "got none"), ({"samples": 0}, "at least 1")]
)
def test_settings_out_of_range(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Distance(**changes)


def test_few_images_of_a_class_leave_a_doubt_and_probes_take_those_of_all(
    toy: Toy, rows: LabelledImages, generator: torch.Generator, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = distance.universal_triggers
    monkeypatch.setattr(
        distance, "universal_triggers", lambda *words, **more: [asked.append(words[3].samples), real(*words, **more)][1]
    )
    (evidence,) = scan(toy(), rows, Distance(families=("patch",), samples=40), generator).evidence
    assert asked == [20]
    assert evidence.facts["samples"] == 10
    assert evidence.doubts == ("10 images of a class say less of its pairs than 20, the fewest that were measured",)
    assert not scan(toy(), rows, QUICK, generator).evidence[0].doubts, "fewer were asked for"
