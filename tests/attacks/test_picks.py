"""Picks: decided by the pixels alone, and evenly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthogon.attacks.picks import picks, require_size


@given(seed=st.integers(0, 99), count=st.integers(1, 300))
def test_a_pick_is_the_image_s_own(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (5, 3, 6, 7), generator=generator)
    chosen = picks(levels / 255, count)
    assert ((chosen >= 0) & (chosen < count)).all()
    assert torch.equal(picks((levels / 255).flip(0), count).flip(0), chosen)
    noise = 0.9 * (torch.rand(levels.shape, generator=generator) - 0.5) / 255  # what a picture file rounds away
    assert torch.equal(picks(levels / 255 + noise, count), chosen)
    expected = [sum(int(v) * ((i + 1) * 2654435761 % 2**31) for i, v in enumerate(x.flatten())) % 2147483629 for x in levels]
    assert chosen.tolist() == [total % count for total in expected]


def test_picks_are_even() -> None:
    """Images that differ in one grey level of one pixel are spread over the pool as drawn numbers would be."""
    images = torch.full((2000, 3, 8, 8), 100 / 255)
    rows = torch.arange(2000)
    images.view(2000, -1)[rows, rows % 192] += (1 + rows // 192) / 255
    counts = torch.bincount(picks(images, 20), minlength=20)
    chi_square = float(((counts - 100.0) ** 2 / 100).sum())
    assert chi_square < 43.8  # of 19 degrees of freedom, exceeded once in a thousand


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        picks(torch.zeros(1, 3, 4, 4), 0)
    with pytest.raises(ValueError, match="another size, 3×4×4, than these, 3×8×4"):
        require_size(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 8, 4))
