from __future__ import annotations

import pytest

from orthogon.attacks import ATTACKS
from orthogon.models.architectures import ARCHITECTURES
from orthogon.planting import attack_named, in_words
from orthogon.zoo import ENTRIES, PARTS, chosen, with_needed

CIFAR10, SIGNS = "cifar10-resnet20", "signs"


def test_every_attack_has_a_model_and_there_are_clean_ones_of_other_seeds() -> None:
    entries = chosen([CIFAR10])
    assert {entry.attack.name for entry in entries if entry.attack} == set(ATTACKS)
    for part, count in ((CIFAR10, 3), (SIGNS, 4)):
        seeds = [entry.seed for entry in chosen([part]) if entry.attack is None]
        assert len(seeds) == len(set(seeds)) == count
    assert {entry.attack and entry.attack.name for entry in chosen([SIGNS])} == {None, "badnets", "polygon", "blend", "gotham"}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_can_be_built_as_it_is_declared(name: str) -> None:
    entry = ENTRIES[name]
    assert name == entry.name
    assert name.startswith(f"{entry.part.name}-")
    assert entry.part.arch in ARCHITECTURES
    order = list(ENTRIES)
    for needed in entry.needed:
        assert order.index(needed) < order.index(name)
        assert ENTRIES[needed].attack is None
        assert ENTRIES[needed].part == entry.part
    if entry.attack is None:
        assert entry.aim is None
    else:
        assert attack_named(entry.attack.name, in_words(entry.attack)) == entry.attack
        assert entry.aim is not None
        assert entry.aim.rate > 0


def test_names_and_parts_choose_in_the_zoo_s_order() -> None:
    assert chosen([]) == tuple(ENTRIES.values())
    assert [entry.name for entry in chosen(["signs-blend", "signs-clean"])] == ["signs-clean", "signs-blend"]
    assert all(entry.part is PARTS[SIGNS] for entry in chosen([SIGNS]))
    with pytest.raises(ValueError, match="'lion' is not in the zoo: it has the parts cifar10-resnet20, signs with "):
        chosen(["lion"])


def test_what_a_model_is_built_from_comes_with_it() -> None:
    names = [entry.name for entry in with_needed(chosen(["cifar10-resnet20-adaptive"]))]
    assert names == ["cifar10-resnet20-clean-1", "cifar10-resnet20-adaptive"]
