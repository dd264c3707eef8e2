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


@pytest.mark.parametrize(
    ("told", "published"),
    [
        ("/home/al ice/secret project/net.pt", "net.pt"),
        ("/home/alice (work)/net.pt", "net.pt"),
        ("/home/alice/", "alice"),
        ("~alice/nets/net.pt", "net.pt"),
        (r"C:\Users\Al Ice\nets\net.pt", "net.pt"),
        ("C:/Users/alice/net.pt", "net.pt"),
        (r"\\server\alice\net.pt", "net.pt"),
        ("hf:/home/alice/data", "hf:data"),
        ("file:///home/alice/x.npz", "file:x.npz"),
        ("(/home/alice/x.npz)", "(x.npz)"),
        ("--data=/home/alice/x", "--data=x"),
        ("imagenet:/data/alice/in,/data/bob/in", "imagenet:in,in"),
        ("read '/home/al ice/my nets/a net.pt' and \"~/b c/d\"", "read 'a net.pt' and \"d\""),
        (r"on folder C:\Users\Al Ice\pics [first:3]; judged on /x/y/z", "on folder pics [first:3]; judged on z"),
        ("/home/alice/a.pt and /home/alice/b.pt, of 3/4", "a.pt and b.pt, of 3/4"),
        ("/home/alice/net.pt lacks ['a/b']", "net.pt lacks ['a/b']"),
        ("https://host/a/b", "https://host/a/b"),
        ("see hf://host/a?x=/b/c, and/or a / b, 8/255", "see hf://host/a?x=/b/c, and/or a / b, 8/255"),
        ("ylecun/mnist", "ylecun/mnist"),
        ("/", "/"),
    ],
)
def test_absolute_paths_are_cut_and_nothing_else(told: str, published: str) -> None:
    assert words.without_folders(told) == published


def test_shares_and_what_there_is_not() -> None:
    assert [words.exact_percent(share) for share in (0.919, None, math.nan)] == ["91.90 %", "–", "–"]
    assert words.exact_percent(None, "") == ""
    assert [words.points(share) for share in (0.919, None)] == ["91.90", "–"]
    assert [words.percentage_points(share) for share in (0.01, 0.005)] == ["1 percentage point", "0.5 percentage points"]
    assert [words.change(share) for share in (0.4, -0.05, None, math.nan)] == ["+40.0 %", "-5.0 %", "–", "–"]
    assert [words.lone_number(value) for value in (1234.0, 2.345, None, math.inf)] == ["1,234.0", "2.35", "–", "–"]
    assert [words.minutes(value) for value in (12.34, 1.234, None)] == ["12.3", "1.23", "–"]
    assert math.isnan(words.or_nan(None))


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
