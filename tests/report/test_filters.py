"""A run of filters: drawn as colours and numbers, where a patch has a mask."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orthogon import runs
from orthogon.report import compare, write_comparison, write_report
from orthogon.report.pictures import shift_uri
from orthogon.triggers import Filter

from .test_page import Page


@pytest.fixture
def filters_of(run_of: Callable[..., Path]) -> Callable[..., Path]:
    """As `run_of`, with filters for patches."""

    def make(count: int = 3, channels: int = 3, **words: object) -> Path:
        words = {"image_shape": (channels, 12, 12), "unit": Filter().unit, "family": "filter"} | words
        folder = run_of(count, **words)
        tensors = load_file(folder / "triggers.safetensors")
        pairs = len(tensors["pairs"])
        for name in ("mask", "pattern"):
            del tensors[f"trigger.{name}"]
        for name, level in {"clean_mean": 100, "clean_std": 50, "mean": 180, "std": 20}.items():
            tensors[f"trigger.{name}"] = torch.full((pairs, channels), level / 255) + torch.arange(channels) / 255
        runs.write_tensors(folder / "triggers.safetensors", tensors)
        return folder

    return make


def test_a_filter_is_drawn_as_its_colours_and_its_numbers(filters_of: Callable[..., Path]) -> None:
    page = Page(write_report(filters_of()))
    assert page.tags.count("img") == 4 * 6
    assert all(page.get("img", "alt"))
    assert [page.texts.count(name) for name in ("colours", "mask", "red", "green", "blue")] == [6, 0, 6, 6, 6]
    for shift in ("100 → 180", "101 → 181", "102 → 182", "50 → 20", "51 → 21", "52 → 22"):
        assert page.texts.count(shift) == 6
    assert "pixels" not in page.text
    assert "sticker" not in page.text
    assert f"({Filter().unit})" in page.text


@pytest.mark.parametrize(("channels", "names"), [(1, ["grey"]), (4, ["1", "2", "3", "4"])])
def test_channels_that_are_no_colours(filters_of: Callable[..., Path], channels: int, names: list[str]) -> None:
    page = Page(write_report(filters_of(2, channels)))
    assert page.texts.count("100 → 180") == 2
    assert [name for name in names if page.texts.count(name) < 2] == []


def test_the_best_attempts_are_told_where_no_filter_is_found(filters_of: Callable[..., Path]) -> None:
    failed = {(v, t): "asr not reached" for v in range(3) for t in range(3) if v != t}
    page = Page(write_report(filters_of(failed=failed)))
    assert "No pair of classes has a distance." in page.text
    assert page.text.count("no distance: asr not reached, the best attempt turns 40 %") == 6
    assert "Closest pairs" not in page.text


def test_runs_of_filters_are_compared_with_each_other_alone(filters_of: Callable[..., Path], run_of: Callable[..., Path]) -> None:
    before, after, patches = filters_of(name="before"), filters_of(name="after", seed=1), run_of(3, name="patches")
    page = Page(write_comparison(compare(before, after), after / "comparison.html"))
    assert Filter().unit in page.text
    with pytest.raises(ValueError, match="differ in unit"):
        compare(before, patches)


def test_colours_are_left_before_and_right_after() -> None:
    means, deviations = (
        torch.tensor([[51.0, 102.0, 153.0], [230.0, 128.0, 0.0]]) / 255,
        torch.tensor([[25.0] * 3, [50.0] * 3]) / 255,
    )
    image = Image.open(io.BytesIO(base64.b64decode(shift_uri(means, deviations).split(",")[1])))
    assert image.size == (6, 6)
    left, right = ([image.getpixel((x, y)) for y in (0, 2, 5)] for x in (0, 5))
    assert left == [(76, 127, 178), (51, 102, 153), (26, 77, 128)]
    assert right == [(255, 178, 50), (230, 128, 0), (180, 78, 0)]
