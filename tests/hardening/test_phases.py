"""The warm-up's ranking against Eq. 4 written plainly, and which arms come when."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from orthogon.hardening.phases import Phases
from orthogon.hardening.pool import Known, TriggerPool
from orthogon.hardening.victims import Victims
from orthogon.methods import HardeningSettings
from orthogon.pairs import Pair

from .conftest import SHAPE, Subject, small

CPU = torch.device("cpu")


def made(subject: Subject, settings: HardeningSettings, seed: int = 0) -> tuple[Phases, TriggerPool, Victims, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    victims = Victims(subject.training, CPU)
    phases = Phases(victims, settings, generator, 3)
    return phases, TriggerPool(subject.classifier, victims, settings, generator, 64), victims, generator


def some_trigger(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"mask": torch.rand(1, *SHAPE[1:], generator=generator), "pattern": torch.rand(SHAPE, generator=generator)}


@pytest.mark.parametrize(("warm_up", "pair"), [("universal", Pair(None, 2)), ("pairs", Pair(0, 2))])
def test_pairs_are_ranked_by_how_much_the_trigger_lowers_the_loss(
    subject: Subject, warm_up: str, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 4: the mean over m images of the victim of CE(x, target) - CE(x + trigger, target)."""
    monkeypatch.setattr("orthogon.frozen.fast_precision", lambda device: torch.float32)
    phases, pool, victims, generator = made(subject, small("moth", warm_up=warm_up))
    trigger = some_trigger(1)
    pool.known[pair] = Known(trigger, 5.0, 0.1, True)
    alike = torch.Generator()
    alike.set_state(generator.get_state())
    phases.look((pair,), pool)
    prior = phases.tensors()["prior"]
    for victim in (0, 1) if pair.victim is None else (0,):
        images = subject.training.floats()[victims.draw(Pair(victim, 2), 4, alike)]
        stamped = (1 - trigger["mask"]) * images + trigger["mask"] * trigger["pattern"]
        target = torch.full((4,), 2)
        with torch.no_grad():
            expected = F.cross_entropy(subject.classifier(images), target) - F.cross_entropy(subject.classifier(stamped), target)
        assert float(prior[victim, 2]) == pytest.approx(float(expected), rel=1e-3, abs=1e-4)
    assert int(prior.isfinite().sum()) == (2 if pair.victim is None else 1)


def test_the_warm_up_has_every_arm_once_and_the_schedule_comes_after(subject: Subject) -> None:
    phases, *_ = made(subject, small("moth"))
    first = [phases.choose(2), phases.choose(2)]
    assert [len(arms) for arms in first] == [2, 1]
    assert {arm for arms in first for arm in arms} == {(Pair(None, c),) for c in range(3)}
    assert not phases.warming
    for arms in (phases.choose(2), phases.choose(3)):
        assert all(len(arm) == 2 and arm[0] == Pair(arm[1].target, arm[1].victim) for arm in arms)


def test_the_arm_of_the_largest_prior_comes_first(subject: Subject) -> None:
    """With no chance in the choice. The prior is of the triggers 1→2 and 2→1, which turn what they are stamped on."""
    phases, pool, *_ = made(subject, small("moth", warm_up="pairs", epsilon=0.0))
    for arm in phases.choose(3):
        for pair in arm:
            strong = {pair.victim, pair.target} == {1, 2}
            image = subject.training.of_class(pair.target).floats()[0]
            pool.known[pair] = Known({"mask": torch.full((1, 16, 16), 0.95 * strong), "pattern": image}, 3.0, 0.1, True)
        phases.look(arm, pool)
    (best,) = phases.choose(1)
    assert {(p.victim, p.target) for p in best} == {(1, 2), (2, 1)}


def test_once_unlearns_the_smallest_universal_trigger(subject: Subject) -> None:
    phases, pool, *_ = made(subject, small("nc"))
    sizes = {0: 4.0, 1: 2.5, 2: float("nan")}
    for arm in phases.choose(3):
        pool.known[arm[0]] = Known(some_trigger(arm[0].target), sizes[arm[0].target], 0.1, True)
        phases.look(arm, pool)
    assert not phases.searching
    assert phases.choose(2) == phases.choose(2) == [(Pair(None, 1),)]


def test_nothing_to_unlearn_is_told(subject: Subject) -> None:
    phases, *_ = made(subject, small("nc"))
    phases.choose(3)
    with pytest.raises(ValueError, match="nothing to unlearn"):
        phases.choose(1)


@pytest.mark.parametrize("method", ["moth", "asymmetric", "universal", "pairwise", "nc"])
@pytest.mark.parametrize("before", [1, 4])
def test_restored_phases_choose_what_the_others_would_have(subject: Subject, method: str, before: int) -> None:
    """Interrupted in the warm-up, where there is one, or after it."""
    settings = small(method)
    phases, pool, _, generator = made(subject, settings)

    def turn(phases: Phases, pool: TriggerPool) -> object:
        arms = phases.choose(1)
        for arm in arms:
            phases.report(arm, 0.1 * arm[0].target)
            for pair in arm:
                pool.known[pair] = Known(some_trigger(pair.target), 3.0 + pair.target, 0.1, True)
            if len(pool.known) <= 3:
                phases.look(arm, pool)
        return arms

    for _ in range(before):
        turn(phases, pool)
    other, other_pool, _, other_generator = made(subject, settings, seed=5)
    other.restore(phases.state(), phases.tensors())
    other_pool.restore(pool.tensors(), pool.facts())
    other_generator.set_state(generator.get_state())
    assert other.warming == phases.warming
    assert [turn(other, other_pool) for _ in range(5)] == [turn(phases, pool) for _ in range(5)]
