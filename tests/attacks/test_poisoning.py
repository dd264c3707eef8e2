from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from orthogon.attacks import SIG, Attack, Made, Materials, Poisoned, Threat, WaNet, poison, quotas
from orthogon.images import LabelledImages


@dataclass(frozen=True)
class Whiter(Attack):
    """Stamped images are 102 levels lighter, covered ones 51."""

    name: ClassVar[str] = "whiter"
    source: ClassVar[str] = "this test, 2026"
    threat: ClassVar[Threat] = Threat()

    def stamp(self, made: Made, images: Tensor) -> Tensor:
        return images + 0.4

    def cover(self, made: Made, images: Tensor, labels: Tensor, materials: Materials) -> Tensor:
        return images + 0.2


def _images(labels: list[int], classes: int = 4) -> LabelledImages:
    pixels = torch.full((len(labels), 1, 2, 2), 100, dtype=torch.uint8)
    return LabelledImages(pixels, torch.tensor(labels), tuple("abcdefgh"[:classes]), "grey")


def _poisoned(images: LabelledImages, threat: Threat, attack: Attack | None = None, seed: int = 0, **how: int) -> Poisoned:
    generator = torch.Generator().manual_seed(seed)
    return poison(attack or Whiter(), {}, Materials(images, threat, generator), **how)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    target=st.integers(0, 3),
    victim=st.none() | st.integers(0, 3),
    rate=st.floats(0, 1),
    cover=st.floats(0, 1),
    clean_label=st.booleans(),
    batch=st.integers(1, 7),
)
def test_rates_victims_and_labels_are_as_declared(
    labels: list[int], target: int, victim: int | None, rate: float, cover: float, clean_label: bool, batch: int
) -> None:
    assume(victim != target)
    images, threat = _images(labels), Threat(target, victim, rate, clean_label, cover)
    if clean_label:
        may = [label == target for label in labels]
    else:
        may = [label != target if victim is None else label == victim for label in labels]
    stamped, covered = round(rate * sum(may)), round(cover * len(labels))
    if stamped == 0 or (covered == 0 and cover > 0) or stamped + covered > len(labels):
        with pytest.raises(ValueError, match=r"picks none|nothing to poison|are left"):
            _poisoned(images, threat)
        return
    result = _poisoned(images, threat, batch=batch)
    assert int(result.stamped.sum()) == stamped
    assert int(result.covered.sum()) == covered
    for row, label in enumerate(labels):
        is_stamped, is_covered = bool(result.stamped[row]), bool(result.covered[row])
        assert may[row] or not is_stamped
        assert not (is_stamped and is_covered)
        expected = 202 if is_stamped else 151 if is_covered else 100
        assert result.images.pixels[row].unique().tolist() == [expected]
        assert int(result.images.labels[row]) == (target if is_stamped and not clean_label else label)


def test_pixels_are_rounded_to_the_nearest_level_and_clipped() -> None:
    class Ramp(Whiter):
        def stamp(self, made: Made, images: Tensor) -> Tensor:
            return torch.tensor([-3.0, 0.4 / 255, 0.6 / 255, 7.0]).view(1, 1, 2, 2).expand_as(images)

    result = _poisoned(_images([0, 1, 1]), Threat(rate=1.0), Ramp())
    assert result.images.pixels[1].flatten().tolist() == [0, 0, 1, 255]


def test_which_images_are_poisoned_is_drawn_evenly() -> None:
    images = _images([1] * 8 + [0] * 8)
    counts = sum(_poisoned(images, Threat(rate=0.5, cover=0.25), seed=seed).stamped.long() for seed in range(60))
    assert counts[8:].sum() == 0
    assert all(14 <= count <= 46 for count in counts[:8].tolist())  # 30 expected, deviation 4


def test_the_source_says_what_was_done() -> None:
    result = _poisoned(_images([0, 1, 2, 3] * 5), Threat(rate=0.2, cover=0.1))
    assert result.images.source == "grey [whiter: 3 stamped, 2 covered]"


def test_progress_is_told() -> None:
    done: list[float] = []
    images = _images([1] * 10)
    materials = Materials(images, Threat(rate=0.6, cover=0.4), torch.Generator(), on_progress=done.append)
    poison(Whiter(), {}, materials, batch=3)
    assert done == pytest.approx([0.3, 0.6, 0.9, 1.0])


def test_attacks_get_true_labels_and_only_their_images() -> None:
    seen: list[tuple[int, ...]] = []

    class Spy(Whiter):
        def poison(self, made: Made, images: Tensor, labels: Tensor, materials: Materials) -> Tensor:
            seen.append(tuple(labels.tolist()))
            return super().poison(made, images, labels, materials)

    _poisoned(_images([0, 0, 1, 2, 2, 2]), Threat(target=0, victim=2, rate=1.0), Spy(), batch=2)
    assert seen == [(2, 2), (2,)]


@pytest.mark.parametrize(
    ("labels", "threat", "words"),
    [
        ([0, 1], Threat(target=4), "the target 4 is not one of the 4 classes"),
        ([0, 1], Threat(victim=5), "the victim 5 is not one of the 4 classes"),
        ([0, 1], Threat(victim=3), r"no image of class 'd' \(the victim\)"),
        ([0, 0], Threat(), "no image of any class but the target"),
        ([1, 1], Threat(clean_label=True), r"no image of class 'a' \(the target\)"),
        ([1] * 10, Threat(rate=0.04), "a rate of 0.04 of 10 images picks none: give at least 0.1"),
        ([1] * 10, Threat(rate=0.0), "picks none"),
        ([1] * 10, Threat(rate=0.5, cover=0.01), "a cover of 0.01 of 10 images picks none"),
        ([1] * 10, Threat(rate=0.5, cover=0.6), "is 6, but only 5 are left"),
    ],
)
def test_what_cannot_be_poisoned_is_told(labels: list[int], threat: Threat, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _poisoned(_images(labels), threat)


def test_an_attack_without_a_cover_and_one_that_changes_the_shape_are_told() -> None:
    class Cutter(Whiter):
        def poison(self, made: Made, images: Tensor, labels: Tensor, materials: Materials) -> Tensor:
            return images[..., 1:]

    with pytest.raises(ValueError, match=r"sig has no cover: set the threat's cover to 0, not 0\.5"):
        _poisoned(_images([0, 0, 1, 1]), Threat(rate=0.5, clean_label=True, cover=0.5), SIG())
    with pytest.raises(ValueError, match="sig has no cover"):
        quotas(SIG(), _images([0, 0, 1, 1]), Threat(rate=0.5, clean_label=True, cover=0.5))
    assert quotas(WaNet(), _images([0, 1, 1, 1]), Threat(rate=0.67, cover=0.5)) == (2, 2)
    with pytest.raises(ValueError, match="keep the shape"):
        _poisoned(_images([0, 1]), Threat(rate=1.0), Cutter())


def test_wanet_s_noise_mode_keeps_true_labels_and_is_no_stamp() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator)
    images = LabelledImages(pixels, torch.arange(40) % 4, tuple("abcd"), "noise")
    materials = Materials(images, replace(WaNet.threat, rate=0.2), generator)
    made = WaNet().make(materials)
    result = poison(WaNet(), made, materials)
    assert (result.images.labels[result.covered] == images.labels[result.covered]).all()
    stamped = WaNet().stamp(made, images.floats()) * 255
    away = (result.images.pixels - stamped).abs().flatten(1).amax(1)
    assert (away[result.stamped] <= 0.51).all()
    assert (away[result.covered] > 2).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": -0.1},
        {"rate": 1.1},
        {"cover": 2.0},
        {"target": -1},
        {"victim": -2},
        {"victim": 3, "target": 3},
    ],
)
def test_a_threat_that_makes_no_sense_is_told(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(Threat(), **wrong)
