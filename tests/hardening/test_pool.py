"""The latest triggers: one batch for all directions, warm where the last one worked, and what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from orthogon.hardening import pool as pool_module
from orthogon.hardening.pool import Known, TriggerPool
from orthogon.hardening.victims import Victims
from orthogon.inversion import Request, invert
from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.schedule import Arm

from .conftest import SHAPE, Subject, classifier_of, network, small

SYMMETRIC: Arm = (Pair(0, 1), Pair(1, 0))
DIRECTED: Arm = (Pair(2, 1),)


def made(subject: Subject, **settings: Any) -> TriggerPool:
    victims = Victims(subject.training, torch.device("cpu"))
    return TriggerPool(subject.classifier, victims, small("moth", **settings), torch.Generator().manual_seed(0), 64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[Request]]:
    """The requests of each call of the inversion loop, which is called all the same."""
    seen: list[list[Request]] = []

    def recorded(engine: Any, family: Any, requests: Sequence[Request]) -> list[Inversion]:
        seen.append(list(requests))
        return invert(engine, family, requests)

    monkeypatch.setattr(pool_module, "invert", recorded)
    return seen


@pytest.mark.parametrize("arms", [[SYMMETRIC], [DIRECTED], [SYMMETRIC, DIRECTED]])
def test_all_directions_of_all_arms_are_searched_in_one_call(
    subject: Subject, calls: list[list[Request]], arms: list[Arm]
) -> None:
    found = made(subject).invert(arms, 8, seeded())
    pairs = [pair for arm in arms for pair in arm]
    assert [inversion.pair for inversion in found] == pairs
    assert [[request.pair for request in call] for call in calls] == [pairs]


def test_what_is_found_is_found_on_the_victims(subject: Subject) -> None:
    """Judged anew on all training images of the victim, for which the samples stand."""
    some = made(subject, first_inversion=40)
    for inversion in some.invert([SYMMETRIC], 40, seeded()):
        assert inversion.outcome is Outcome.FOUND
        some.keep(inversion)
        images = subject.training.of_class(inversion.pair.victim or 0).floats()
        with torch.no_grad():
            said = subject.classifier(some.stamped([inversion.pair], images[None])[0]).argmax(1)
        assert (said == inversion.pair.target).float().mean() > 0.7
        mask = inversion.trigger["mask"]
        assert inversion.size == pytest.approx(3 * float(mask.sum()), rel=1e-4)


def known(found: bool = True) -> Known:
    return Known({"mask": torch.full((1, 16, 16), 0.5), "pattern": torch.rand(SHAPE, generator=seeded(2))}, 4.0, 0.02, found)


def test_the_last_trigger_is_the_start_and_fainter_where_it_worked(subject: Subject, calls: list[list[Request]]) -> None:
    some = made(subject, shrink=0.6)
    some.known[Pair(0, 1)] = known()
    some.known[Pair(2, 1)] = known(found=False)
    found = some.invert([SYMMETRIC, DIRECTED], 8, seeded())
    assert [inversion.pair for inversion in found] == [*SYMMETRIC, *DIRECTED]
    assert [inversion.steps for inversion in found] == [6, 8, 6]
    cold, warm = calls
    assert [(r.pair, r.start, r.weight) for r in cold] == [(Pair(1, 0), None, None)]
    assert [(r.pair, r.weight) for r in warm] == [(Pair(0, 1), 0.02), (Pair(2, 1), 0.02)]
    for request, mask in zip(warm, (0.3, 0.5), strict=True):
        assert request.start is not None
        torch.testing.assert_close(request.start["mask"], torch.full((1, 16, 16), mask))


def test_without_reuse_every_search_starts_from_nothing(subject: Subject, calls: list[list[Request]]) -> None:
    some = made(subject, reuse=False)
    some.known[Pair(0, 1)] = known()
    some.invert([SYMMETRIC], 8, seeded())
    assert [request.start for call in calls for request in call] == [None, None]


def inversion(size: float, outcome: Outcome = Outcome.FOUND, pair: Pair = SYMMETRIC[0]) -> Inversion:
    trigger = {"mask": torch.rand(1, 16, 16), "pattern": torch.rand(SHAPE)}
    return Inversion(pair, outcome, size if outcome is Outcome.FOUND else math.nan, 0.9, trigger, weight=0.3)


def test_growth_is_relative_to_the_last_trigger_found(subject: Subject) -> None:
    """Eq. 6; the first time relative to the universal trigger of the target; NaN where one of them is not known."""
    some = made(subject)
    assert math.isnan(some.keep(inversion(8.0, pair=Pair(2, 0))))
    assert math.isnan(some.keep(inversion(4.0, pair=Pair(None, 1))))
    assert some.keep(inversion(6.0)) == pytest.approx(0.5)
    assert some.keep(inversion(3.0)) == pytest.approx(-0.5)
    assert math.isnan(some.keep(inversion(0.0, Outcome.ASR)))
    assert some.distance(SYMMETRIC[0]) == 3.0  # of the last one found
    assert not some.known[SYMMETRIC[0]].found
    assert some.keep(inversion(6.0)) == pytest.approx(1.0)
    assert some.known[SYMMETRIC[0]].found
    assert some.mean_distance() == pytest.approx((8.0 + 6.0) / 2)  # without the universal one


def test_what_is_not_finite_is_not_kept(subject: Subject) -> None:
    some = made(subject)
    some.keep(good := inversion(5.0))
    assert math.isnan(some.keep(inversion(0.0, Outcome.NOT_FINITE)))
    assert some.known[good.pair].trigger is good.trigger


def test_before_any_pair_the_mean_is_of_the_universal_triggers(subject: Subject) -> None:
    some = made(subject)
    assert math.isnan(some.mean_distance())
    some.keep(inversion(4.0, pair=Pair(None, 1)))
    some.keep(inversion(2.0, pair=Pair(None, 0)))
    assert some.mean_distance() == 3.0
    assert some.distance(Pair(2, 1)) == 4.0


def test_beyond_the_memory_the_triggers_used_longest_ago_are_forgotten(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 4 * (256 + 768)
    monkeypatch.setattr(pool_module, "_MOST_BYTES", 2 * each)
    some = made(subject)
    for pair in (Pair(0, 1), Pair(1, 2), Pair(0, 1), Pair(2, 0)):
        some.keep(inversion(3.0, pair=pair))
    assert list(some.known) == [Pair(0, 1), Pair(2, 0)]


def test_the_pool_comes_back_from_its_tensors_and_facts(subject: Subject) -> None:
    some, other = made(subject), made(subject)
    for made_one in (inversion(3.0), inversion(0.0, Outcome.ASR, Pair(2, 1)), inversion(7.0, pair=Pair(None, 2))):
        some.keep(made_one)
    other.restore(some.tensors(), some.facts())
    assert list(other.known) == list(some.known)
    for pair, one in some.known.items():
        two = other.known[pair]
        assert repr((two.size, two.weight)) == repr((one.size, one.weight))
        assert all(torch.equal(two.trigger[name], one.trigger[name]) for name in one.trigger)
    assert made(subject).tensors() == {}


def test_a_refreshed_pool_searches_against_the_model_that_it_is_given(subject: Subject) -> None:
    one, other = made(subject), made(subject)
    one.refresh(classifier_of(network(8)))
    first, second = (some.invert([DIRECTED], 8, seeded())[0] for some in (one, other))
    assert not torch.equal(first.trigger["mask"], second.trigger["mask"])
    one.refresh(subject.classifier)
    again = one.invert([DIRECTED], 8, seeded())[0]
    assert torch.equal(again.trigger["mask"], second.trigger["mask"])


def test_inversions_are_the_generator_s(subject: Subject) -> None:
    one, again, other = (made(subject).invert([DIRECTED], 8, seeded(seed))[0].trigger["mask"] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
