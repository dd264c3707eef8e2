"""What a scanner has found: a trigger as what it does to images."""

from __future__ import annotations

import math

import torch

from orthogon.pairs import Inversion, Outcome, Pair
from orthogon.scanning.evidence import Suspect, stamp_of
from orthogon.triggers import FAMILIES


def test_stamp_of_a_found_trigger() -> None:
    mask, pattern = torch.zeros(1, 2, 2), torch.full((3, 2, 2), 0.25)
    mask[0, 0, 0], mask[0, 1, 1] = 1.0, 0.5
    stamp = stamp_of(FAMILIES["patch"], {"mask": mask, "pattern": pattern}, torch.device("cpu"))
    expected = torch.ones(2, 3, 2, 2)
    expected[:, :, 0, 0], expected[:, :, 1, 1] = 0.25, 0.625
    assert torch.allclose(stamp(torch.ones(2, 3, 2, 2)), expected)


def test_a_suspect_tells_how_its_search_ended() -> None:
    broken = Inversion(Pair(0, 1), Outcome.NOT_FINITE, math.nan, math.nan, {})
    told = Suspect(Pair(0, 1), 0.5, "patch", broken).to_json(("go", "stop"), "pixels")
    assert (told["outcome"], told["size"], told["success_rate"]) == ("not finite", None, None)
    assert Suspect(Pair(None, 1), 0.5).to_json(("go", "stop"), None)["outcome"] is None
