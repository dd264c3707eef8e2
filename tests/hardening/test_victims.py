"""Draws of a pair's victims."""

from __future__ import annotations

import pytest
import torch

from orthogon.hardening.victims import Victims
from orthogon.pairs import Pair

from .conftest import images

CPU = torch.device("cpu")
UNEVEN = (1, 50, 7)
"""Images per class."""


def victims(counts: tuple[int, ...] = UNEVEN) -> Victims:
    return Victims(images(0, 1, counts), CPU)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_pair_s_samples_are_of_its_victim_and_all_of_them_come_up(victim: int) -> None:
    some = victims()
    drawn = some.draw(Pair(victim, (victim + 1) % 3), 2000, torch.Generator().manual_seed(0))
    assert (some.labels[drawn] == victim).all()
    counts = torch.bincount(drawn, minlength=len(some.labels))[some.labels == victim]
    assert len(counts) == UNEVEN[victim]
    assert ((counts / counts.sum() * len(counts)) > 0.3).all()


@pytest.mark.parametrize("target", [0, 1, 2])
def test_without_a_victim_every_other_class_is_drawn_alike_however_many_images_it_has(target: int) -> None:
    some = victims()
    labels = some.labels[some.draw(Pair(None, target), 4000, torch.Generator().manual_seed(0))]
    shares = torch.bincount(labels, minlength=3) / 4000
    assert shares[target] == 0
    assert shares[[c for c in range(3) if c != target]].tolist() == pytest.approx([0.5, 0.5], abs=0.04)


def test_a_class_without_images_is_not_among_the_others() -> None:
    some = victims((5, 0, 5))
    assert some.classes == [0, 2]
    assert some.labels[some.draw(Pair(None, 0), 50, torch.Generator().manual_seed(0))].unique().tolist() == [2]


@pytest.mark.parametrize("pair", [Pair(1, 0), Pair(None, 0), None])
def test_draws_are_the_generator_s(pair: Pair | None) -> None:
    def drawn(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return (some.draw_any(30, generator) if pair is None else some.draw(pair, 30, generator)).tolist()

    some = victims()
    assert drawn(4) == drawn(4) != drawn(5)
