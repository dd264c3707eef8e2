from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orthogon.attacks import ATTACKS, BadNets, Blend, CleanLabel
from orthogon.planting import attack_named, attack_of, in_words, settings_of


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_found_by_name_and_by_its_settings(name: str) -> None:
    attack = attack_named(name)
    assert attack == ATTACKS[name]()
    assert in_words(attack) == ()
    assert attack_of(name, json.loads(json.dumps(settings_of(attack)))) == attack


def test_words_are_typed_by_the_dataclass() -> None:
    changes = ("size=4", "colour=1,0.5,0", "corner=top left")
    attack = attack_named("badnets", changes)
    assert attack == BadNets(size=4, colour=(1.0, 0.5, 0.0), corner="top left")
    assert attack_named("badnets", in_words(attack)) == attack
    assert attack_named("clean-label", ["corner=all"]) == CleanLabel(corner="all")
    assert attack_named("clean-label", ["corner=bottom left"]) == CleanLabel(corner="bottom left")


@given(st.floats(1e-6, 1.0))
def test_no_setting_is_rounded_on_the_way(alpha: float) -> None:
    attack = Blend(alpha)
    assert attack_named("blend", in_words(attack)) == attack
    assert attack_of("blend", json.loads(json.dumps(settings_of(attack)))) == attack


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("blnd", "alpha=0.1", r"'blnd' is no attack \(did you mean blend\?\); there are badnets"),
        ("blend", "alfa=0.1", "'alfa=0.1' is not one of blend's: alpha=0.2"),
        ("blend", "alpha", "'alpha' is not one of blend's"),
        ("blend", "alpha=much", "alpha takes a number; blend has alpha=0.2"),
        ("blend", "alpha=7", "alpha must be above 0 and at most 1, got 7.0"),
        ("badnets", "size=1.5", "size takes a whole number"),
        ("badnets", "colour=1,x", "colour takes values with commas between them, each a number"),
        ("reflection", "shift=3", "shift takes 2 values with commas between them, each a whole number"),
        ("gotham", "alpha=1", "'alpha=1' is not one of gotham's: it has none"),
        ("badnets", "corner=middle", "corner takes top left, top right, bottom left, bottom right"),
    ],
)
def test_wrong_words_are_told_with_what_there_is(name: str, change: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        attack_named(name, [change])
