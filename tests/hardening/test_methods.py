"""The contract of every method, and what settings are refused."""

from __future__ import annotations

from typing import Any

import pytest

from orthogon.evaluate import accuracy
from orthogon.hardening import METHODS, harden
from orthogon.methods import HardeningSettings

from .conftest import Subject, same, small, state_of


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_hardens_a_copy_within_the_bound_as_its_seed_says(subject: Subject, method: str) -> None:
    settings, before = small(method, steps=12), state_of(subject.classifier)
    once, again, other = (
        harden(subject.classifier, subject.training, subject.held_out, settings, seed=seed) for seed in (0, 0, 1)
    )
    assert same(state_of(subject.classifier), before)
    assert once.classifier is not subject.classifier
    assert not once.classifier.training
    for result in (once, other):
        assert result.stopped == "steps"
        assert result.step == 12 >= result.best_step > 0
        assert not same(state_of(result.classifier), before)
        seen = accuracy(result.classifier, subject.held_out).accuracy
        assert seen == pytest.approx(result.accuracy_after)
        assert seen >= result.floor == pytest.approx(result.accuracy_before - 0.1)
        assert [check.step for check in result.history.checks] == [6, 12]
    assert same(state_of(once.classifier), state_of(again.classifier))
    assert not same(state_of(once.classifier), state_of(other.classifier))
    searched = once.history.picks["step"]
    assert bool(searched) == (settings.arms != "none")


def test_neural_cleanse_s_unlearning_searches_in_the_warm_up_alone(subject: Subject) -> None:
    picks = harden(subject.classifier, subject.training, subject.held_out, small("nc", steps=12)).history.picks
    assert sorted(picks["target"]) == [0, 1, 2]
    assert set(picks["victim"]) == {None}
    assert set(picks["step"]) == {0}  # nothing is trained before all sizes are known


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        *(
            ("moth", {name: 0}, f"{name} must be at least 1, got 0")
            for name in (
                *("steps", "arms_per_pick", "updates_per_pick", "batch", "first_inversion", "inversion", "warm_up_inversion"),
                *("trigger_samples", "prior_samples", "horizon", "check_every", "adversary_steps"),
            )
        ),
        ("moth", {"stamped": -1}, "stamped must be at least 0, got -1"),
        ("moth", {"weight_decay": -0.1}, r"weight_decay must be at least 0, got -0\.1"),
        *(("moth", {name: v}, f"{name} must be from 0 to below 1") for name in ("momentum", "average") for v in (-0.1, 1.0)),
        *(
            ("moth", {name: v}, f"{name} must be from 0 to 1")
            for name in ("asr", "epsilon", "bound", "max_accuracy_loss", "shrink")
            for v in (-0.1, 1.1)
        ),
        ("moth", {"learning_rate": 0.0}, "learning_rate must be above 0"),
        ("moth", {"shift": 0.6}, "shift must be from 0 to 0.5"),
        ("adversarial", {"adversary": "none"}, "leave nothing to harden against"),
        ("nc", {"arms": "symmetric"}, 'schedule "once"'),
        ("nc", {"warm_up": "pairs"}, 'schedule "once"'),
        ("moth", {"warm_up": "none"}, 'schedule "k-arm"'),
        ("moth", {"arms": "universal"}, 'schedule "k-arm"'),
    ],
)
def test_settings_that_cannot_be_are_refused(method: str, change: dict[str, Any], message: str) -> None:
    assert isinstance(small(method), HardeningSettings)
    with pytest.raises(ValueError, match=message):
        small(method, **change)
