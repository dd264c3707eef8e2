"""Reflection: its optics against numpy and scipy, and what an image gets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from torch import Tensor

from orthogon.attacks.attack import Materials, Threat
from orthogon.attacks.picks import picks
from orthogon.attacks.reflection import Reflection, blurred, ghost
from orthogon.images import LabelledImages

SHAPE = (3, 16, 20)


def materials(pictures: Tensor | None = None, seed: int = 0, images: int = 60) -> Materials:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, *SHAPE), generator=generator, dtype=torch.uint8)
    labelled = LabelledImages(pixels, torch.arange(images) % 3, ("a", "b", "c"), "noise")
    return Materials(labelled, Threat(), generator, pictures=pictures)


def picture(seed: int = 0) -> Tensor:
    return torch.rand(*SHAPE, generator=torch.Generator().manual_seed(seed))


def cubic(small: int, large: int) -> np.ndarray:
    """Rows of weights that enlarge a line by cubic convolution with a = -0.75 and repeated ends."""
    weights = np.zeros((large, small))
    for i in range(large):
        centre = (i + 0.5) * small / large - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            d = abs(centre - j)
            near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(j, 0), small - 1)] += near if d <= 1 else far if d < 2 else 0
    return weights


@pytest.mark.parametrize(("rows", "columns", "weight"), [(3, 5, 0.2), (8, 3, 0.7)])
def test_a_ghost_is_two_shifted_pictures_where_they_overlap_enlarged(rows: int, columns: int, weight: float) -> None:
    light = picture().double()
    _, h, w = SHAPE
    old = light.numpy()
    overlap = weight * old[:, rows:, columns:] + (1 - weight) * old[:, : h - rows, : w - columns]
    expected = np.clip(cubic(h - rows, h) @ overlap @ cubic(w - columns, w).T, 0, 1)
    np.testing.assert_allclose(ghost(light.float(), rows, columns, weight).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("deviation", [1.0, 2.3, 5.0])
def test_the_blur_is_a_gaussian_of_two_deviations(deviation: float) -> None:
    radius = int(np.ceil(2 * deviation))
    expected = [gaussian_filter(c, deviation, mode="mirror", radius=radius) for c in picture().double().numpy()]
    np.testing.assert_allclose(blurred(picture(), deviation).numpy(), expected, atol=1e-5)


def falloff(side: int) -> np.ndarray:
    edges = np.linspace(-3 - 3.5 / side, 3 + 3.5 / side, side + 1)
    root = np.sqrt(np.diff(norm.cdf(edges)))
    return root / root.max()


def mixed(x: np.ndarray, stored: np.ndarray, share: float, is_ghost: bool, overshoot: float) -> np.ndarray:
    """The release's mixture, written out for one image."""
    light, r = x**2.2, stored**2.2
    if is_ghost:
        return np.clip((1 - share) * light + share * r, 0, 1) ** (1 / 2.2)
    for c in range(3):
        total = r[c] + light[c]
        bright = total[total > 1]
        excess = max(1.0, bright.sum() / (bright.size + 1e-6)) - 1
        r[c] = np.clip(r[c] - excess * overshoot, 0, 1)
    fall = np.outer(falloff(SHAPE[1]), falloff(SHAPE[2]))
    return np.clip((1 - share) * light + r * fall * (1 - (1 - share) / 2), 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("ghost_rate", [0.0, 0.5, 1.0])
def test_the_stamp_is_the_release_s_mixture(ghost_rate: float) -> None:
    attack, images = Reflection(ghost_rate=ghost_rate), materials().images.floats()
    made = attack.make(materials())
    stamped = attack.stamp(made, images)
    chosen = picks(images, len(made["reflections"])).tolist()
    assert len(set(chosen)) > 20
    for x, i, seen in zip(images.double().numpy(), chosen, stamped.numpy(), strict=True):
        facts = float(made["shares"][i]), bool(made["ghosts"][i]), float(made["overshoots"][i])
        expected = mixed(x, made["reflections"][i].numpy() / 255, *facts)
        np.testing.assert_allclose(seen, expected, atol=1e-3 if expected.min() < 0.01 else 1e-4)


def test_what_is_drawn_lies_where_it_should() -> None:
    made = Reflection(pool=400).make(materials(images=400))
    assert 0.05 <= made["shares"].min() <= 0.1 < 0.4 <= made["shares"].max() <= 0.45
    assert 1.08 <= made["overshoots"].min() <= made["overshoots"].max() <= 1.18
    assert abs(float(made["ghosts"].float().mean()) - 0.49) < 0.08
    assert made["reflections"].shape == (400, *SHAPE)
    assert len(Reflection(pool=25).make(materials())["reflections"]) == 25
    assert len(Reflection(pool=100).make(materials())["reflections"]) == 60  # no more than there are


def test_pictures_from_elsewhere_are_reflected_where_there_are_any() -> None:
    """Black ones only take light away, whatever their kind: (1 - a) x^γ is left."""
    attack = Reflection(share=(0.3, 0.3))
    images = materials().images.floats()
    made = attack.make(materials(torch.zeros(4, *SHAPE, dtype=torch.uint8)))
    torch.testing.assert_close(attack.stamp(made, images), (0.7 * images**2.2) ** (1 / 2.2), atol=1e-5, rtol=0)


def test_with_no_share_a_ghost_is_not_seen() -> None:
    attack, images = Reflection(share=(0.0, 0.0), ghost_rate=1.0), materials().images.floats()
    torch.testing.assert_close(attack.stamp(attack.make(materials()), images), images, atol=1e-5, rtol=0)


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="shifts of up to 16 do not fit"):
        Reflection(shift=(3, 16)).make(materials())
    with pytest.raises(ValueError, match="at least one picture"):
        Reflection().make(materials(torch.zeros(0, *SHAPE, dtype=torch.uint8)))
    made = Reflection().make(materials())
    with pytest.raises(ValueError, match="made for images of another size"):
        Reflection().stamp(made, torch.zeros(1, 3, 8, 8))
    for wrong in ({"pool": 0}, {"ghost_rate": 1.1}, {"share": (0.5, 0.2)}, {"shift": (-1, 3)}, {"blur": (0.0, 1.0)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(Reflection(), **wrong)
