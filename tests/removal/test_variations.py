"""Variations: images stay images, labels' images stay recognisable, draws are the generator's, each change does what it says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orthogon.removal.variations import bent, mixed, pasted, recoloured, varied

CHANGES = (bent, recoloured, mixed, pasted)
SHAPES = st.tuples(st.integers(1, 5), st.sampled_from((1, 3)), st.integers(4, 20), st.integers(4, 20))
Change = Callable[[Tensor, torch.Generator], Tensor]


def _draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int = 12, channels: int = 3, height: int = 16, width: int = 20) -> Tensor:
    return torch.rand(n, channels, height, width, generator=_draws(9))


@pytest.mark.parametrize("change", CHANGES)
@given(
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 5), st.sampled_from((1, 3)), st.integers(4, 20), st.integers(4, 20)),
)
def test_images_stay_images(change: Change, seed: int, shape: tuple[int, int, int, int]) -> None:
    images = torch.rand(shape, generator=_draws(seed))
    kept = images.clone()
    changed = change(images, _draws(seed))
    assert changed.shape == images.shape
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert torch.equal(images, kept), "the images that came in were changed"


@pytest.mark.parametrize("change", CHANGES)
def test_each_image_is_changed_and_in_its_own_way(change: Change) -> None:
    grey = torch.full((12, 3, 16, 16), 0.4)
    grey[:, :, 4:12, 4:12] = torch.tensor([0.9, 0.5, 0.2])[:, None, None]  # the same picture a dozen times
    if change in (mixed, pasted):
        grey = grey * torch.linspace(0.5, 1, 12)[:, None, None, None]  # these take from others, which must differ
    changed = change(grey, _draws())
    moved = (changed - grey).abs().sum((1, 2, 3))
    assert int((moved > 1e-3).sum()) >= 11
    assert len({round(float(m), 4) for m in moved}) >= 11


@pytest.mark.parametrize("change", CHANGES)
def test_draws_are_the_generators(change: Change) -> None:
    images = _images()
    assert torch.equal(change(images, _draws(3)), change(images, _draws(3)))
    assert not torch.equal(change(images, _draws(3)), change(images, _draws(4)))


def test_bending_leaves_a_flat_image_flat() -> None:
    flat = torch.full((6, 3, 12, 12), 0.3)
    torch.testing.assert_close(bent(flat, _draws()), flat, atol=1e-5, rtol=0)


def test_recolouring_keeps_what_is_alike_alike_away_from_the_rim() -> None:
    """A colour curve and a rim know nothing of neighbours: what is alike and as far from the middle stays alike."""
    images = torch.rand(8, 3, 1, 1, generator=_draws()).expand(8, 3, 16, 16)
    changed = recoloured(images, _draws(1))
    for turned in (changed.flip(2), changed.flip(3), changed.transpose(2, 3)):
        torch.testing.assert_close(changed, turned, atol=1e-5, rtol=0)


def test_mixing_keeps_three_fifths_of_the_image() -> None:
    images = _images(64)
    assert float((mixed(images, _draws()) - images).abs().max()) <= 0.4 + 1e-6


def test_pasting_changes_one_rectangle_of_two_to_fourteen_thirty_seconds() -> None:
    images = _images(40, height=32, width=32)
    changed = (pasted(images, _draws()) != images).any(1)
    for one in changed:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        for places in (rows, columns):
            assert 2 <= len(places) <= 14
            assert len(places) == int(places[-1] - places[0]) + 1


def test_the_chance_is_of_each_change() -> None:
    images = _images(400, height=8, width=8)
    assert torch.equal(varied(images, _draws(), 0.0), images)
    untouched = (varied(images, _draws(), 0.5) == images).all(3).all(2).all(1).float().mean()
    assert 0.03 < float(untouched) < 0.11  # a sixteenth; three deviations are 0.036
    assert not (varied(images, _draws(), 1.0) == images).all(3).all(2).all(1).any()
