"""Class pairs as a text names them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthogon.pairs import Inversion, Outcome, Pair, choose_pairs


def test_all_pairs_are_all_but_the_diagonal(generator: torch.Generator) -> None:
    pairs = choose_pairs("all", 3, generator)
    assert [(p.victim, p.target) for p in pairs] == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_universal_pairs_are_one_per_target(generator: torch.Generator) -> None:
    assert choose_pairs("universal", 3, generator) == [Pair(None, 0), Pair(None, 1), Pair(None, 2)]
    assert choose_pairs("*-2,0-1", 3, generator) == [Pair(None, 2), Pair(0, 1)]


@st.composite
def _listed(draw: st.DrawFn) -> tuple[int, list[Pair]]:
    classes = draw(st.integers(2, 12))
    number = st.integers(0, classes - 1)
    pair = st.builds(Pair, st.none() | number, number).filter(lambda p: p.victim != p.target)
    return classes, draw(st.lists(pair, min_size=1, max_size=20))


@given(case=_listed(), space=st.sampled_from(["", " "]))
def test_listed_pairs_are_read_in_order_and_once(case: tuple[int, list[Pair]], space: str) -> None:
    classes, pairs = case
    text = f",{space}".join(f"{'*' if p.victim is None else p.victim}-{p.target}" for p in pairs)
    assert choose_pairs(text, classes, torch.Generator()) == list(dict.fromkeys(pairs))


@given(classes=st.integers(2, 12), seed=st.integers(0, 2**32), data=st.data())
def test_random_pairs_are_different_pairs_of_the_seed(classes: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, classes * (classes - 1)))
    drawn = choose_pairs(f"random:{count}", classes, torch.Generator().manual_seed(seed))
    again = choose_pairs(f"random:{count}", classes, torch.Generator().manual_seed(seed))
    every = choose_pairs("all", classes, torch.Generator())
    assert drawn == again == [pair for pair in every if pair in set(drawn)]
    assert len(set(drawn)) == count


def test_another_seed_draws_other_pairs() -> None:
    one, other = (choose_pairs("random:10", 10, torch.Generator().manual_seed(s)) for s in (0, 1))
    assert one != other


@given(text=st.text(alphabet="0123456789-*,: ranndomll", max_size=12), classes=st.integers(2, 4))
def test_any_text_is_pairs_or_a_clear_error(text: str, classes: int) -> None:
    try:
        pairs = choose_pairs(text, classes, torch.Generator())
    except ValueError as error:
        if "--pairs" not in str(error):
            raise
        return
    assert all(p.victim != p.target and 0 <= p.target < classes for p in pairs)
    assert all(p.victim is None or 0 <= p.victim < classes for p in pairs)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "'' is not a pair"),
        ("01", "'01' is not a pair"),
        ("0-1,,1-0", "'' is not a pair"),
        ("0-0", "'0-0' has the same victim and target"),
        ("0-4", "'0-4' names a class outside 0 to 3"),
        ("4-0", "'4-0' names a class outside 0 to 3"),
        ("0-x", "'x' in '0-x' is not a whole number"),
        ("-1-0", "'1-0' in '-1-0' is not a whole number"),
        ("-1", "'' in '-1' is not a whole number"),
        ("0-1-2", "'1-2' in '0-1-2' is not a whole number"),
        ("random:0", "ask for 1 to 12"),
        ("random:13", "4 classes have 12 pairs"),
        ("random:many", "'many' in 'random:many' is not a whole number"),
        ("everything", "'everything' is not a pair"),
    ],
)
def test_a_text_that_is_no_pair_is_named(spec: str, message: str, generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        choose_pairs(spec, 4, generator)


@pytest.mark.parametrize(
    ("sizes", "spread"), [((), math.nan), ((3.0,), math.nan), ((3.0, 5.0), math.sqrt(2)), ((4.0, 4.0, 4.0), 0.0)]
)
def test_the_spread_is_the_standard_deviation_of_the_searches(sizes: tuple[float, ...], spread: float) -> None:
    inversion = Inversion(Pair(0, 1), Outcome.FOUND, 3.0, 1.0, {}, sizes)
    assert inversion.spread == pytest.approx(spread, nan_ok=True)
