"""DFST: the stamp is the learned generator, and sunrise pictures make images warmer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from orthogon.attacks.attack import Materials
from orthogon.attacks.dfst import DFST
from orthogon.attacks.style import StyleSettings, learn_style
from orthogon.images import LabelledImages

QUICK = DFST(steps=2, batch=8, width=8, learning_rate=0.005)


def materials(pictures: Tensor | None, shape: tuple[int, int, int] = (3, 8, 8)) -> Materials:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 196, (30, *shape), generator=generator, dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(30) % 3, ("a", "b", "c"), "noise")
    return Materials(images, DFST.threat, generator, pictures=pictures)


def pictures(shape: tuple[int, int, int] = (3, 8, 8)) -> Tensor:
    return torch.randint(0, 256, (10, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_defaults_are_the_source_s() -> None:
    attack = DFST()
    assert (attack.cycle, attack.identity, attack.learning_rate) == (1.0, 0.1, 2e-4)
    assert attack.threat.rate == 500 / 5000


def test_the_stamp_is_the_generator_that_was_learned() -> None:
    source = materials(pictures())
    made = QUICK.make(source)
    again = materials(pictures())
    settings = StyleSettings(steps=2, batch=8, width=8, learning_rate=0.005)
    cycle = learn_style(again.images.pixels, pictures(), settings, again.generator, torch.device("cpu"))
    images = source.images.floats()
    with torch.no_grad():
        expected = cycle.there(images)
    torch.testing.assert_close(QUICK.stamp(made, images), expected, atol=1e-6, rtol=0)
    assert not QUICK.stamp(made, images).requires_grad
    assert (QUICK.stamp(made, images) - images).abs().max() > 1 / 255
    larger = torch.rand(300, 3, 4, 6, generator=torch.Generator().manual_seed(2))  # more than one part, of another size
    assert QUICK.stamp(made, larger).shape == larger.shape


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="1 channel"):
        QUICK.make(materials(pictures((1, 8, 8)), (1, 8, 8)))
    for none in (None, torch.zeros(0, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="learns the style of pictures: give some"):
            QUICK.make(materials(none))
    with pytest.raises(ValueError, match="do not fit on images of 3×8"):
        QUICK.make(materials(pictures((3, 3, 8)), (3, 3, 8)))
    with pytest.raises(ValueError, match="no generator of these settings"):
        QUICK.stamp({}, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="width"):
        replace(QUICK, width=9)


def test_a_sunrise_makes_images_warmer(shared: Path) -> None:
    files = sorted((shared / "data" / "sunrise").glob("*.png"))[:100]
    style = torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) for file in files])
    style = style[:, :, ::2, ::2]
    source = materials(style, (3, 16, 16))
    attack = replace(QUICK, steps=30)
    images = source.images.floats()
    stamped = attack.stamp(attack.make(source), images)

    def warmth(pictures: Tensor) -> float:
        return float((pictures[:, 0] - pictures[:, 2]).mean())

    assert warmth(style / 255) > 0.2
    assert abs(warmth(images)) < 0.01
    assert warmth(stamped) > 0.05
