from __future__ import annotations

import math

import pytest

from orthogon.report import colours, words


@pytest.mark.parametrize(
    ("unit", "shape", "expected"),
    [
        ("mask L1, summed over channels", (3, 32, 32), "a patch of about 8 of 1,024 pixels"),
        ("mask L1, summed over 3 channels", (3, 32, 32), "a patch of about 8 of 1,024 pixels"),
        ("mask L1", (3, 32, 32), "a patch of about 24 of 1,024 pixels"),
        ("mask L1, summed over channels", None, "a trigger of size 24.2 (mask L1, summed over channels)"),
        ("shift", (3, 32, 32), "a trigger of size 24.2 (shift)"),
    ],
)
def test_a_size_in_words(unit: str, shape: tuple[int, int, int] | None, expected: str) -> None:
    assert words.Size(unit, shape).words(24.2) == expected


def test_numbers() -> None:
    assert words.number(1234.5, 0) in {"1,234", "1,235"}
    assert words.number(math.nan) == "–"
    assert [words.percent(share) for share in (0.996, 1.0, 0.904, math.nan)] == ["99 %", "100 %", "90 %", "–"]
    assert [words.duration(s) for s in (42.0, 731.0, 12_000.0)] == ["42 s", "12 min", "3 h 20 min"]


def test_folders_are_cut_off() -> None:
    assert words.without_folders({"a": ["/home/x/y.pt, first:3", r"C:\u\v.pt"]}) == {"a": ["y.pt, first:3", "v.pt"]}


def test_the_command_line_quotes_and_nests() -> None:
    started = {
        "command": "measure",
        "settings": {"data": "a b; rm", "inversion": {"max_steps": 5}, "pairs": ["0-1", "2-3"], "flip": True, "fast": False},
    }
    assert words.command_line(started) == "orthogon measure --data 'a b; rm' --max-steps 5 --pairs 0-1 2-3 --flip"
    assert words.command_line({}) is None


@pytest.mark.parametrize("dark", [False, True])
def test_the_scale_is_monotone_in_lightness_and_its_text_legible(dark: bool) -> None:
    ramp = [colours.near_far(level, dark) for level in range(colours.LEVELS)]
    grey = [colours.contrast(colour, (0, 0, 0)) for colour in ramp]
    assert grey == sorted(grey, reverse=dark)
    assert min(colours.contrast(colour, colours.ink_on(colour)) for colour in ramp) >= 4.2
