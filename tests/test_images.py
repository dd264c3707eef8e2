"""Labelled images, their draws, and batch augmentation."""

from __future__ import annotations

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthogon.images import LabelledImages, cutout, random_crop, random_flip

COUNTS = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


def made(counts: list[int]) -> LabelledImages:
    """Image i is filled with the value i; labels in a fixed mixed order."""
    labels = torch.tensor([c for c, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))]
    pixels = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return LabelledImages(pixels, labels, tuple(f"c{c}" for c in range(len(counts))), "made")


def ids(images: LabelledImages) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(2, 3, 2, 2)}, "uint8"),
        ({"pixels": torch.zeros(2, 2, 2, dtype=torch.uint8)}, r"\(n, c, h, w\)"),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, "int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "2 images but 3 labels"),
        ({"labels": torch.tensor([0, 2])}, "label 2"),
        ({"labels": torch.tensor([-1, 0])}, "label -1"),
        ({"classes": ("a", "a")}, "must differ"),
    ],
)
def test_what_is_refused(change: dict, message: str) -> None:
    good = {
        "pixels": torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "source": "test",
    }
    assert len(LabelledImages(**good)) == 2
    jaxtyping.config.update("jaxtyping_disable", True)  # users run without its checks, which would come first
    try:
        with pytest.raises(ValueError, match=message):
            LabelledImages(**{**good, **change})
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_views_and_floats() -> None:
    images = made([3, 0, 2])
    assert images.image_shape == (3, 2, 2)
    assert images.counts() == [3, 0, 2]
    assert len(images.of_class(1)) == 0
    assert images.of_class(2).labels.tolist() == [2, 2]
    assert ids(images.select(torch.tensor([4, 0]))) == [4, 0]
    assert images.floats("cpu").dtype == torch.float32
    torch.testing.assert_close(images.floats() * 255, images.pixels.float())
    with pytest.raises(ValueError, match="class 3"):
        images.of_class(3)


def test_digest_tells_pixels_labels_classes_and_shape_apart() -> None:
    images = made([3, 3])
    others = [
        LabelledImages(images.pixels.clone().add_(1), images.labels, images.classes, ""),
        LabelledImages(images.pixels, images.labels.flip(0), images.classes, ""),
        LabelledImages(images.pixels, images.labels, ("c0", "other"), ""),
        LabelledImages(images.pixels.view(6, 3, 4, 1), images.labels, images.classes, ""),
    ]
    assert len({images.digest(), *(o.digest() for o in others)}) == 5
    again = LabelledImages(images.pixels.clone(), images.labels.clone(), images.classes, "elsewhere")
    assert again.digest() == images.digest()


@given(COUNTS, st.integers(0, 12), st.integers(0, 99))
def test_draw_has_no_repeats_and_one_class(counts: list[int], count: int, seed: int) -> None:
    images = made(counts)
    drawn = images.draw(0, count, seeded(seed))
    assert len(drawn) == min(count, counts[0]) == len(set(ids(drawn)))
    assert set(drawn.labels.tolist()) <= {0}
    assert ids(drawn) == ids(images.draw(0, count, seeded(seed)))


@given(COUNTS, st.floats(0.01, 1), st.integers(0, 99))
def test_fraction_is_class_balanced_and_keeps_the_order(counts: list[int], fraction: float, seed: int) -> None:
    images = made(counts)
    part = images.subset(f"fraction:{fraction}", seeded(seed))
    assert part.counts() == [min(n, max(1, round(fraction * n))) for n in counts]
    assert ids(part) == sorted(set(ids(part)))
    assert ids(part) == ids(images.subset(f"fraction:{fraction}", seeded(seed)))


@given(COUNTS, st.floats(0, 1), st.integers(0, 99))
def test_split_shares_nothing_and_loses_nothing(counts: list[int], fraction: float, seed: int) -> None:
    images = made(counts)
    first, second = images.split(fraction, seeded(seed))
    assert first.counts() == [round(fraction * n) for n in counts]
    assert sorted(ids(first) + ids(second)) == ids(images)


@given(COUNTS, st.sampled_from(["first:1", "fraction:0.3", "per-class:2"]), st.integers(0, 99))
def test_divide_gives_the_subset_and_the_rest(counts: list[int], spec: str, seed: int) -> None:
    images = made(counts)
    expected = images.subset(spec, seeded(seed))
    if len(expected) == len(images):
        with pytest.raises(ValueError, match=f"takes all {len(images)} images"):
            images.divide(spec, seeded(seed))
        return
    part, rest = images.divide(spec, seeded(seed))
    assert ids(part) == ids(expected)
    assert ids(rest) == [i for i in ids(images) if i not in ids(part)]
    assert part.labels.tolist() == images.labels[ids(part)].tolist()
    assert rest.labels.tolist() == images.labels[ids(rest)].tolist()
    assert (part.source, rest.source) == (f"made [{spec}]", f"made [without {spec}]")


def test_subsets_by_place_and_by_class() -> None:
    images = made([30, 4])
    assert ids(images.subset("first:3", seeded())) == [0, 1, 2]
    assert ids(images.subset("range:3:6", seeded())) == [3, 4, 5]
    part = images.subset("per-class:5", seeded())
    assert part.counts() == [5, 4]
    assert part.source == "made [per-class:5]"
    assert ids(part) != ids(images.subset("per-class:5", seeded(1)))


@pytest.mark.parametrize(
    "spec",
    [
        *("first:0", "first:35", "first:1:2", "range:5:3", "range:0:35", "fraction:0", "fraction:1.5", "fraction:nan"),
        *("per-class:x", "per-class:0", "half", ""),
    ],
)
def test_wrong_subsets_are_named(spec: str) -> None:
    with pytest.raises(ValueError, match="none of first:N"):
        made([30, 4]).subset(spec, seeded())
    with pytest.raises(ValueError, match="none of first:N"):
        made([30, 4]).divide(spec, seeded())
    with pytest.raises(ValueError, match=r"got 1\.2"):
        made([3]).split(1.2, seeded())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("augment", [random_crop, random_flip, cutout])
def test_augmentation_keeps_shape_dtype_and_range_and_is_seeded(augment, dtype: torch.dtype) -> None:
    images = torch.rand(16, 3, 12, 10, generator=seeded()).to(dtype)
    before = images.clone()
    out = augment(images, seeded(1))
    assert out.shape == images.shape
    assert out.dtype == dtype
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(out, augment(images, seeded(1)))
    assert not torch.equal(out, augment(images, seeded(2)))
    assert augment(images[:0], seeded()).shape == (0, 3, 12, 10)


@settings(deadline=None)
@given(st.integers(0, 5), st.sampled_from(["reflect", "zero"]), st.integers(0, 99))
def test_a_crop_is_a_window_of_the_padded_image(padding: int, mode, seed: int) -> None:
    images = torch.rand(3, 2, 6, 7, generator=seeded(seed))
    kind = "reflect" if mode == "reflect" else "constant"
    padded = torch.nn.functional.pad(images, (padding,) * 4, mode=kind)
    for image, crop in zip(padded, random_crop(images, seeded(seed), padding, mode), strict=True):
        windows = [image[:, top : top + 6, left : left + 7] for top in range(2 * padding + 1) for left in range(2 * padding + 1)]
        assert any(torch.equal(crop, window) for window in windows)


def test_crops_differ_within_a_batch_and_refuse_wide_reflections() -> None:
    same = torch.rand(1, 3, 8, 8, generator=seeded()).expand(64, -1, -1, -1)
    assert len(random_crop(same, seeded()).unique(dim=0)) > 30
    for padding in (-1, 8):
        with pytest.raises(ValueError, match=f"got {padding}"):
            random_crop(same, seeded(), padding)


def test_flip_twice_with_one_seed_is_nothing() -> None:
    images = torch.rand(200, 3, 4, 4, generator=seeded())
    flipped = random_flip(images, seeded(5))
    assert torch.equal(random_flip(flipped, seeded(5)), images)
    share = (flipped != images).flatten(1).any(1).float().mean()
    assert 0.35 < share < 0.65


def test_cutout_covers_one_square_that_may_reach_over_the_edge() -> None:
    out = cutout(torch.ones(300, 2, 16, 16), seeded(), size=6, fill=0.25)
    covered = out[:, 0] == 0.25
    assert torch.equal(covered, out[:, 1] == 0.25)
    heights, widths = covered.any(2).sum(1), covered.any(1).sum(1)
    assert torch.equal(heights * widths, covered.sum((1, 2)))
    assert heights.min() >= 3
    assert heights.max() == 6
    assert torch.equal(cutout(torch.ones(2, 1, 4, 4), seeded(), size=0), torch.ones(2, 1, 4, 4))


def test_images_without_those_that_others_hold_too() -> None:
    pixels = torch.arange(5 * 3 * 2 * 2, dtype=torch.uint8).view(5, 3, 2, 2)
    one = LabelledImages(pixels, torch.tensor([0, 1, 0, 1, 0]), ("a", "b"), "one")
    other = LabelledImages(pixels[[3, 0]].clone(), torch.tensor([0, 1]), ("a", "b"), "other")
    assert torch.equal(one.without(other).pixels, pixels[[1, 2, 4]])
    assert one.without(other).labels.tolist() == [1, 0, 0]
    assert len(one.without(one)) == 0
    assert len(one.without(one.select(torch.tensor([], dtype=torch.int64)))) == 5
