"""Schedules against a dense reference, drawn with the same draws; arms by number; interruptions."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from orthogon.pairs import Pair
from orthogon.schedule import (
    Arm,
    Arms,
    KArm,
    RandomArms,
    RoundRobin,
    Schedule,
    directed_arms,
    symmetric_arms,
    universal_arms,
)

KINDS = (symmetric_arms, directed_arms, universal_arms)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def every_arm(arms: Arms) -> list[Arm]:
    return [arms[number] for number in range(len(arms))]


# Arms by number


@given(classes=st.lists(st.integers(0, 99), unique=True, max_size=9))
def test_the_arms_are_all_there_are_each_once(classes: list[int]) -> None:
    two_ways = {frozenset((Pair(a, b), Pair(b, a))) for a, b in itertools.combinations(classes, 2)}
    one_way = {(Pair(a, b),) for a, b in itertools.permutations(classes, 2)}
    to_each = {(Pair(None, c),) for c in classes if len(classes) > 1}
    symmetric, directed, universal = (every_arm(kind(classes)) for kind in KINDS)
    assert {frozenset(arm) for arm in symmetric} == two_ways
    assert all(arm[0].victim == arm[1].target and arm[0].target == arm[1].victim for arm in symmetric)
    assert (set(directed), set(universal)) == (one_way, to_each)
    assert (len(symmetric), len(directed), len(universal)) == (len(two_ways), len(one_way), len(to_each))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), size=st.integers(2, 100_000))
def test_an_arm_and_its_number_are_found_without_a_list(kind: Callable[..., Arms], data: st.DataObject, size: int) -> None:
    arms = kind(size)
    number = data.draw(st.integers(0, len(arms) - 1))
    assert arms.index(arms[number]) == number


def test_the_classes_are_in_the_order_given() -> None:
    assert every_arm(symmetric_arms([7, 2, 5])) == [
        (Pair(7, 2), Pair(2, 7)),
        (Pair(7, 5), Pair(5, 7)),
        (Pair(2, 5), Pair(5, 2)),
    ]
    assert every_arm(directed_arms([7, 2])) == [(Pair(7, 2),), (Pair(2, 7),)]
    assert every_arm(universal_arms([7, 2])) == [(Pair(None, 7),), (Pair(None, 2),)]
    assert every_arm(symmetric_arms(3)) == every_arm(symmetric_arms([0, 1, 2]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arm",
    [
        (),
        (Pair(0, 4),),
        (Pair(0, 0),),
        (Pair(None, 4),),
        (Pair(1, 0), Pair(0, 1)),
        (Pair(0, 1), Pair(0, 1)),
        (Pair(0, 0), Pair(0, 0)),
        (Pair(None, 0), Pair(None, 0)),
    ],
)
def test_what_is_no_arm_has_no_number(kind: Callable[..., Arms], arm: Arm) -> None:
    with pytest.raises(ValueError, match="none of the"):
        kind(4).index(arm)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_out_of_range_is_no_arm(kind: Callable[..., Arms]) -> None:
    for number in (-1, len(kind(4))):
        with pytest.raises(IndexError, match=f"arm {number} of"):
            kind(4)[number]


@pytest.mark.parametrize("classes", [[1, 2, 1], [0, -1]])
def test_classes_must_be_different_numbers(classes: list[int]) -> None:
    with pytest.raises(ValueError, match="each must be named once, by a number from 0"):
        symmetric_arms(classes)


@given(classes=st.lists(st.integers(0, 9), unique=True, min_size=2), seed=st.integers(0, 99))
def test_an_arm_has_the_sum_of_its_directions(classes: list[int], seed: int) -> None:
    matrix = torch.rand(10, 10, generator=seeded(seed), dtype=torch.float64)
    for kind in (symmetric_arms, directed_arms):
        arms = kind(classes)
        expected = [sum(float(matrix[p.victim, p.target]) for p in arm) for arm in every_arm(arms)]
        assert arms.sums(matrix).tolist() == pytest.approx(expected)
    columns = [[float(matrix[a, b]) for a in classes if a != b] for b in classes]
    expected = [sum(column) / len(column) for column in columns]
    assert universal_arms(classes).sums(matrix).tolist() == pytest.approx(expected)


# K-arm


class Dense:
    """Eq. 5 to 7 over all arms each time, with all growths kept; arms of equal W by u, then by number."""

    def __init__(self, arms: Arms, prior: Tensor, generator: torch.Generator, *, epsilon, horizon, decay, warm_up) -> None:
        self.arms, self.generator, self.iteration = every_arm(arms), generator, 0
        self.epsilon, self.horizon, self.decay, self.warm_up = epsilon, horizon, decay, warm_up
        self.u = [sum(self.entry(prior, p) for p in arm) for arm in self.arms]
        self.order = sorted(range(len(self.arms)), key=lambda k: (-self.u[k], k))
        self.growths: list[list[float]] = [[] for _ in self.arms]

    @staticmethod
    def entry(prior: Tensor, pair: Pair) -> float:
        u = float(prior[pair.victim, pair.target])
        return 0.0 if math.isnan(u) else max(u, -1e30)

    def weight(self, k: int) -> float:
        alpha = min(max(self.iteration - self.warm_up, 0) / self.horizon, 1)
        q = len(self.growths[k])
        v = sum(self.decay ** (q - i) * growth for i, growth in enumerate(self.growths[k], start=1))
        return (1 - alpha) * self.u[k] + alpha * v

    def choose(self, count: int) -> list[Arm]:
        left = list(self.order)
        chosen = []
        for s, place in torch.rand(min(count, len(left)), 2, dtype=torch.float64, generator=self.generator).tolist():
            pick = left[int(place * len(left))] if s < self.epsilon else max(left, key=self.weight)
            left.remove(pick)
            chosen.append(self.arms[pick])
        self.iteration += 1
        return chosen

    def report(self, arm: Arm, growth: float) -> None:
        self.growths[self.arms.index(arm)].append(growth if math.isfinite(growth) else 0.0)


@st.composite
def _problems(draw: st.DrawFn) -> tuple[list[int], Tensor, dict[str, Any]]:
    """Classes, a prior with ties and untried entries, settings."""
    size = draw(st.integers(2, 7))
    classes = draw(st.lists(st.integers(0, size - 1), unique=True, min_size=2))
    entry = st.sampled_from([0.0, 0.5, 1.0, math.nan, -math.inf]) | st.floats(-5, 5, width=32)
    prior = torch.tensor(draw(st.lists(st.lists(entry, min_size=size, max_size=size), min_size=size, max_size=size)))
    words = {
        "epsilon": draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        "horizon": draw(st.integers(1, 30)),
        "decay": 0.5,
        "warm_up": draw(st.integers(0, 5)),
    }
    return classes, prior, words


def growths(calls: int, seed: int) -> list[list[float]]:
    """Nine for each call: eighths, whose sums with halves are exact in any order (no other ties in the reference), and NaN."""
    drawn = torch.randint(-9, 17, (calls, 9), generator=seeded(seed)).double() / 8
    return drawn.where(drawn >= -1, math.nan).tolist()


@pytest.mark.parametrize("kind", [symmetric_arms, directed_arms])
@given(problem=_problems(), seed=st.integers(0, 2**32), count=st.integers(1, 6), calls=st.integers(1, 40))
def test_the_choices_are_those_of_the_dense_reference(kind, problem, seed: int, count: int, calls: int) -> None:
    classes, prior, words = problem
    ours, dense = (make(kind(classes), prior, seeded(seed), **words) for make in (KArm, Dense))
    for row in growths(calls, seed):
        chosen = _run(ours, count, row)
        assert chosen == _run(dense, count, row)
        assert len(set(chosen)) == min(count, math.perm(len(classes), 2) // (2 if kind is symmetric_arms else 1))


def test_the_choices_are_those_of_the_dense_reference_for_long() -> None:
    prior = torch.rand(12, 12, generator=seeded(1))
    words: dict[str, Any] = {"epsilon": 0.3, "horizon": 100, "decay": 0.5, "warm_up": 12}
    ours, dense = (kind(symmetric_arms(12), prior, seeded(2), **words) for kind in (KArm, Dense))
    for row in torch.rand(400, 3, generator=seeded(3), dtype=torch.float64).mul(2).sub(0.5).tolist():
        assert _run(ours, 3, row) == _run(dense, 3, row)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 1.0])
def test_v_is_the_decayed_sum_of_the_growths(decay: float, generator: torch.Generator) -> None:
    arms = symmetric_arms(3)
    schedule = KArm(arms, torch.zeros(3, 3), generator, decay=decay)
    changes = torch.randn(9, generator=generator).tolist()
    for growth in changes:
        schedule.report(arms[1], growth)
    assert schedule.state()["reported"] == [1]
    assert schedule.state()["v"] == pytest.approx([sum(decay ** (9 - i) * g for i, g in enumerate(changes, start=1))])


@pytest.mark.parametrize("growth", [math.nan, math.inf, -math.inf])
def test_a_choice_without_a_trigger_counts_and_adds_nothing(growth: float, generator: torch.Generator) -> None:
    arms = symmetric_arms(3)
    schedule = KArm(arms, torch.zeros(3, 3), generator)
    schedule.report(arms[0], 2.0)
    for arm in every_arm(arms):
        schedule.report(arm, growth)
    assert dict(zip(schedule.state()["reported"], schedule.state()["v"], strict=True)) == {0: 1.0, 1: 0.0, 2: 0.0}


def test_the_prior_leads_and_then_the_growths(generator: torch.Generator) -> None:
    """u = 2 against v = 3: (1-α)·2 < α·3 from α = 0.4 on, which is call 3 + 0.4·10 of a warm-up of 3."""
    prior = torch.tensor([[9.0, 1, 0], [1, 9, 0], [0, 0, 9]])
    arms = symmetric_arms(3)
    schedule = KArm(arms, prior, generator, epsilon=0.0, horizon=10, warm_up=3)
    schedule.report(arms[2], 3.0)
    assert [arms.index(schedule.choose(1)[0]) for _ in range(20)] == [0] * 7 + [2] * 13


@pytest.mark.parametrize("calls", [0, 500, 1000, 5000])
def test_untried_arms_count_as_nothing_and_excluded_ones_come_last(calls: int, generator: torch.Generator) -> None:
    prior = torch.tensor([[math.nan, -math.inf, math.nan], [1.0, math.nan, -2.0], [math.nan, 1.0, math.nan]])
    arms = symmetric_arms(3)
    schedule = KArm(arms, prior, generator, epsilon=0.0)
    schedule.restore({**schedule.state(), "calls": calls})
    assert [arms.index(arm) for arm in schedule.choose(3)] == [1, 2, 0]
    schedule.restore({**schedule.state(), "calls": calls})
    schedule.report(arms[0], 1.0)
    assert [arms.index(arm) for arm in schedule.choose(3)] == ([1, 2, 0] if calls < 1000 else [0, 1, 2])


@pytest.mark.parametrize("reported", [(), (2,), (0, 1), (2, 1, 0), (0, 1, 2, 3, 4, 5)])
def test_of_equal_arms_the_prior_decides_then_the_number(reported: tuple[int, ...], generator: torch.Generator) -> None:
    """All W are 0 from the second call on; u is 1 for the arms 0, 2 and 3, and 2 for the others."""
    prior = torch.tensor([[0.0, 1, 2, 1], [0, 0, 1, 2], [0, 0, 0, 2], [0, 0, 0, 0]])
    arms = symmetric_arms(4)
    schedule = KArm(arms, prior, generator, epsilon=0.0, horizon=1)
    schedule.choose(1)
    for number in reported:
        schedule.report(arms[number], 0.0)
    for count in (6, 2):
        assert [arms.index(arm) for arm in schedule.choose(count)] == [1, 4, 5, 0, 2, 3][:count]


def test_the_diagonal_is_not_read(generator: torch.Generator) -> None:
    prior = torch.rand(5, 5, generator=generator)
    filled = [prior.clone().fill_diagonal_(value) for value in (-math.inf, math.nan, 1e9)]
    one, *others = ([KArm(symmetric_arms(5), u, seeded()).choose(4) for _ in range(9)] for u in filled)
    assert others == [one, one]


def test_a_share_epsilon_of_the_choices_is_random_and_uniform(generator: torch.Generator) -> None:
    arms = symmetric_arms(4)
    schedule = KArm(arms, torch.arange(16.0).view(4, 4), generator, epsilon=0.3)
    best = schedule._best(1)[0]
    counts = Counter(arms.index(schedule.choose(1)[0]) for _ in range(3000))
    others = [counts[k] / 3000 for k in range(6) if k != schedule._order[best]]
    assert others == pytest.approx([0.3 / 6] * 5, abs=4 * math.sqrt(0.05 * 0.95 / 3000))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_random_arms_are_uniform_in_every_place(count: int, generator: torch.Generator) -> None:
    arms = directed_arms(3)
    schedules = RandomArms(arms, generator), KArm(arms, torch.zeros(3, 3), generator, epsilon=1.0)
    for schedule in schedules:
        calls = [[arms.index(arm) for arm in schedule.choose(count)] for _ in range(1500)]
        for place in zip(*calls, strict=True):
            shares = [place.count(k) / 1500 for k in range(6)]
            assert shares == pytest.approx([1 / 6] * 6, abs=4.5 * math.sqrt(5 / 36 / 1500))


def test_a_thousand_classes_are_scheduled_at_once(generator: torch.Generator) -> None:
    arms = symmetric_arms(1000)
    prior = torch.rand(1000, 1000, generator=generator)
    schedule = KArm(arms, prior, generator, epsilon=0.0)
    best = (prior + prior.T).tril(-1).flatten().topk(40).indices.tolist()
    chosen = [arm for _ in range(10) for arm in schedule.choose(4)]
    for arm in chosen[:4]:
        schedule.report(arm, -9.0)
    assert [[arm[0].target, arm[0].victim] for arm in chosen[:4]] == [list(divmod(k, 1000)) for k in best[:4]]
    assert chosen == 10 * chosen[:4]
    assert len(json.dumps(schedule.state())) < 10_000


# Every schedule


def _run(schedule: Schedule | Dense, count: int, changes: list[float]) -> list[Arm]:
    """A call, and reports of what was chosen."""
    chosen = schedule.choose(count)
    for arm, growth in zip(chosen, changes, strict=False):
        schedule.report(arm, growth)
    return chosen


def karm(arms: Arms, generator: torch.Generator) -> Schedule:
    return KArm(arms, torch.rand(9, 9, generator=seeded(5)), generator, horizon=8, warm_up=2)


SCHEDULES = (karm, RoundRobin, RandomArms)


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_a_call_has_as_many_different_arms_as_asked(make, kind, data: st.DataObject) -> None:
    arms = kind(data.draw(st.integers(2, 6)))
    schedule = make(arms, seeded(data.draw(st.integers(0, 99))))
    for count in data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)):
        chosen = _run(schedule, count, [0.5] * count)
        assert len(set(chosen)) == len(chosen) == min(count, len(arms))
        assert set(chosen) <= set(every_arm(arms))


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data())
def test_an_interruption_changes_no_choice(make, kind, data: st.DataObject) -> None:
    arms = kind(data.draw(st.integers(2, 6)))
    before, after = (data.draw(st.lists(st.integers(1, 9), max_size=12)) for _ in range(2))
    seed = data.draw(st.integers(0, 99))
    calls = list(zip(before + after, growths(len(before + after), seed), strict=True))
    whole, first, second = make(arms, seeded(seed)), make(arms, seeded(seed)), make(arms, seeded(seed + 1))
    expected = [_run(whole, *call) for call in calls]
    had = [_run(first, *call) for call in calls[: len(before)]]
    _run(second, 5, [0.25] * 9)  # what a schedule did before it was restored is forgotten
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert second.state() == first.state()
    assert had + [_run(second, *call) for call in calls[len(before) :]] == expected


@pytest.mark.parametrize("make", SCHEDULES)
def test_the_seed_decides(make) -> None:
    one, again, other = ([make(symmetric_arms(6), seeded(s)).choose(9)] for s in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [0, 1, [3]])
def test_a_schedule_without_arms_runs_dry(make, kind, classes: int | list[int]) -> None:
    with pytest.raises(ValueError, match=r"runs dry: it has 0 arms; give two classes or more"):
        make(kind(classes), seeded())


@pytest.mark.parametrize("make", SCHEDULES)
def test_misuse_is_named(make) -> None:
    schedule = make(symmetric_arms(4), seeded())
    for count in (0, -3):
        with pytest.raises(ValueError, match=f"{count} arms were asked for; ask for 1 or more"):
            schedule.choose(count)
    with pytest.raises(ValueError, match="of a schedule of 3 arms, this one has 6"):
        schedule.restore(make(symmetric_arms(3), seeded()).state())


@pytest.mark.parametrize(
    ("prior", "words", "message"),
    [
        (torch.zeros(4, 5), {}, r"prior of shape \(4, 5\): it must be square, with class 3 in it"),
        (torch.zeros(3, 3), {}, r"prior of shape \(3, 3\)"),
        (torch.zeros(4), {}, r"prior of shape \(4,\)"),
        (torch.zeros(4, 4), {"epsilon": 1.5}, "epsilon 1.5 is outside 0 to 1"),
        (torch.zeros(4, 4), {"epsilon": -0.1}, "epsilon -0.1 is outside 0 to 1"),
        (torch.zeros(4, 4), {"epsilon": math.nan}, "epsilon nan is outside 0 to 1"),
        (torch.zeros(4, 4), {"decay": 2.0}, "decay 2.0 is outside 0 to 1"),
        (torch.zeros(4, 4), {"horizon": 0}, "horizon 0 must be 1 or more"),
        (torch.zeros(4, 4), {"warm_up": -1}, "warm_up -1 0 or more"),
    ],
)
def test_settings_out_of_range_are_named(prior: Tensor, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KArm(symmetric_arms(4), prior, seeded(), **words)


def test_a_report_of_no_arm_is_named(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="none of the 6 arms"):
        KArm(symmetric_arms(4), torch.zeros(4, 4), generator).report((Pair(0, 1),), 1.0)


# Round robin


@given(classes=st.integers(2, 5), counts=st.lists(st.integers(1, 12), min_size=1, max_size=20), seed=st.integers(0, 99))
def test_every_round_has_every_arm_once(classes: int, counts: list[int], seed: int) -> None:
    arms = symmetric_arms(classes)
    schedule = RoundRobin(arms, seeded(seed))
    chosen = [arm for count in counts for arm in schedule.choose(count)]
    for begin in range(0, len(chosen), len(arms)):
        one_round = chosen[begin : begin + len(arms)]
        assert len(set(one_round)) == len(one_round)


def test_every_round_has_its_own_order(generator: torch.Generator) -> None:
    schedule = RoundRobin(universal_arms(10), generator)
    rounds = [schedule.choose(10) for _ in range(5)]
    assert len({tuple(one_round) for one_round in rounds}) == 5


def test_a_list_of_arms_is_as_good(generator: torch.Generator) -> None:
    arms = [(Pair(3, 1),), (Pair(None, 2),)]
    assert all(set(make(arms, generator).choose(2)) == set(arms) for make in (RoundRobin, RandomArms))


def test_the_state_of_a_long_round_is_short(generator: torch.Generator) -> None:
    schedule = RoundRobin(symmetric_arms(1000), generator)
    schedule.choose(4)
    assert len(json.dumps(schedule.state())) < 10_000
