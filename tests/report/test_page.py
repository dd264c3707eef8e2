from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from orthogon import runs
from orthogon.report import write_report
from orthogon.report.heat import HeatMap
from orthogon.report.reading import read_run
from orthogon.report.summary import headline

from .conftest import write_pictures

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "a|b`c\n# d", "left\u202eright"]
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects what a page holds and refuses tags that are not closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def get(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def assert_self_contained(page: Page) -> None:
    assert not re.search(r"https?://(?!www\.w3\.org)", page.source)
    assert not re.search(r"@import|url\(", page.source)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert all(source.startswith("data:image/png;base64,") for source in page.get("img", "src"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


@pytest.mark.parametrize(("count", "image_shape"), [(2, (3, 12, 12)), (10, (1, 28, 28)), (43, (3, 12, 12))])
def test_a_page_of_any_number_of_classes_is_whole(
    run_of: Callable[..., Path], count: int, image_shape: tuple[int, int, int]
) -> None:
    page = Page(write_report(run_of(count, image_shape=image_shape)))
    assert_self_contained(page)
    assert f"of {count * (count - 1):,} measured" in page.text
    assert page.tags.count("td") > count**2
    assert all(page.get("img", "alt"))


def test_a_heat_map_too_large_for_a_table_is_a_picture(run_of: Callable[..., Path]) -> None:
    values: list[list[float | None]] = [[None] * 140 for _ in range(140)]
    for k in range(139):
        values[k][k + 1] = 20.0 + k
    page = Page(write_report(run_of(140, values=values)))
    assert_self_contained(page)
    assert any("139 rows, 139 columns" in alt for alt in page.get("img", "alt"))
    for side, first in (("top", 0), ("left", 1)):  # rows are victims, and class 139 is none; class 0 is no target
        named = re.findall(rf'<span style="{side}:([\d.]+)%" title="(class \d+)">', page.source)
        assert [name for _, name in named] == [f"class {k}" for k in range(first, 140, 10)][:14]
        assert [float(share) for share, _ in named] == [round(100 * (k + 0.5) / 139, 2) for k in range(0, 139, 10)]


@pytest.mark.parametrize(("count", "ticks", "second"), [(129, 13, "10"), (500, 50, "10"), (501, 26, "20"), (9000, 45, "200")])
def test_a_picture_has_names_beside_it_at_even_steps(count: int, ticks: int, second: str) -> None:
    names = tuple(str(k) for k in range(count))
    heat = HeatMap(names, names, (), "data:", "", "", "", "", {}, 0)
    assert len(heat.victim_ticks) == len(heat.target_ticks) == ticks
    assert heat.target_ticks[1][1] == second


def test_the_numbers_are_those_of_the_file(run_of: Callable[..., Path]) -> None:
    folder = run_of()
    page = Page(write_report(folder))
    record = json.loads((folder / "distances.json").read_text())
    values = [v for row in record["values"] for v in row if v is not None]
    cells = [text for text in page.texts if re.fullmatch(r"\d+\.\d", text)]
    for value in values:
        assert f"{value:.1f}" in cells
    assert f"{sum(values) / len(values):.1f}" in cells
    least = min(values)
    victim, target = next((v, t) for v in range(10) for t in range(10) if record["values"][v][t] == least)
    assert f"The closest pair is class {victim} → class {target}: a patch of about {least / 3:.0f} of 144 pixels" in page.text
    assert "93 % of the class" in page.text
    assert "91.52 %" in page.text
    assert record["hashes"]["model"] in page.text


def test_pairs_without_a_distance_are_never_a_number(run_of: Callable[..., Path]) -> None:
    failed = {(0, 1): "asr not reached", (2, 3): "too few samples", (4, 5): "not finite"}
    page = Page(write_report(run_of(failed=failed)))
    assert "Of 90 pairs, 3 have no distance and count in no mean" in page.text
    for outcome in failed.values():
        assert any(f"no distance, {outcome}" in title for title in page.get("td", "title"))
    cells = re.findall(r"<td[^>]*>(?:<b>)?([^<]*)", page.source)
    assert [cell for cell in cells if cell in ("none", "few", "error")] == ["none", "few", "error"]
    assert not {"0", "0.0", "inf"} & set(cells)
    assert not re.search(r"\bnan\b", page.text)


def test_a_run_that_found_nothing_still_has_a_page(run_of: Callable[..., Path]) -> None:
    failed = {(v, t): "asr not reached" for v in range(3) for t in range(3) if v != t}
    page = Page(write_report(run_of(3, failed=failed)))
    assert "No pair of classes has a distance." in page.text
    assert "6 × asr not reached" in page.text


def test_hostile_class_names_are_text(run_of: Callable[..., Path]) -> None:
    page = Page(write_report(run_of(5, classes=HOSTILE)))
    assert_self_contained(page)
    assert "<script>alert(1)</script>" in page.texts
    assert "{{ 7*7 }}" in page.texts
    assert "\u202e" not in page.source
    assert r"left\u202eright" in page.text


def test_triggers_are_drawn_smallest_first(run_of: Callable[..., Path]) -> None:
    folder = run_of()
    page = Page(write_report(folder))
    assert page.tags.count("img") == 4 * 90
    record, triggers = json.loads((folder / "distances.json").read_text()), load_file(folder / "triggers.safetensors")
    row = int(triggers["size"].argmin())
    first = Image.open(io.BytesIO(base64.b64decode(page.get("img", "src")[0].split(",")[1])))
    drawn = torch.tensor(list(first.tobytes())).reshape(12, 12, 3).permute(2, 0, 1)
    assert torch.equal(drawn, triggers["clean"][row].long())
    assert f"a sample of {record['classes'][int(triggers['pairs'][row, 0])]}" == page.get("img", "alt")[0]


def test_large_samples_are_shrunk(run_of: Callable[..., Path]) -> None:
    page = Page(write_report(run_of(5, image_shape=(3, 224, 160))))
    sizes = {Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size for uri in page.get("img", "src")}
    assert {max(size) for size in sizes} == {96}
    assert len(page.source) < 3_000_000


def test_a_run_without_triggers_has_no_pictures(run_of: Callable[..., Path]) -> None:
    page = Page(write_report(run_of(pictures=False)))
    assert "img" not in page.tags
    assert "Closest pairs" in page.text


def test_a_family_without_a_mask_has_three_pictures(run_of: Callable[..., Path]) -> None:
    folder = run_of(3, unit="mean and deviation shift", family="colour")
    tensors = load_file(folder / "triggers.safetensors")
    del tensors["trigger.mask"]
    runs.write_tensors(folder / "triggers.safetensors", tensors)
    page = Page(write_report(folder))
    assert page.tags.count("img") == 3 * 6
    assert "pixels" not in page.text
    assert "(mean and deviation shift)" in page.text


UNIVERSAL = [
    {"target": 0, "value": 123.4, "asr": 0.95, "outcome": "found"},
    {"target": 1, "value": None, "asr": 0.5, "outcome": "asr not reached"},
    {"target": 2, "value": 66.0, "asr": 0.91, "outcome": "found"},
]


def test_universal_pairs_stand_with_their_target(run_of: Callable[..., Path]) -> None:
    page = Page(write_report(run_of(universal=UNIVERSAL)))
    assert "From all others at once" in page.text
    assert "123.4" in page.text
    assert "On average, a patch of about" in page.text
    assert "makes any other class class 2: a patch of about 22 of 144 pixels turns 91 % of the samples" in page.text


@pytest.fixture
def universal_run(run_of: Callable[..., Path]) -> Path:
    """A run of universal triggers alone, with their pictures."""
    folder = run_of(3, values=[[None] * 3] * 3, universal=UNIVERSAL, pictures=False)
    write_pictures(folder / "triggers.safetensors", [[123.4, None, 66.0]], (3, 12, 12))
    tensors = load_file(folder / "triggers.safetensors")
    tensors["pairs"] = torch.tensor([[-1, 0], [-1, 2]])
    runs.write_tensors(folder / "triggers.safetensors", tensors)
    return folder


def test_a_run_of_universal_triggers_alone_tells_of_them(universal_run: Path) -> None:
    page = Page(write_report(universal_run))
    assert_self_contained(page)
    for told in (
        "The smallest universal trigger makes any other class class 2: a patch of about 22 of 144 pixels turns 91 %",
        "Of 3 universal triggers searched, 1 was not found: 1 × asr not reached",
        "66.0 to class 2",
        "2 of 3 searched",
    ):
        assert told in " ".join(page.text.split())
    assert not re.search("No pair|pairs measured|of 0", page.text)
    assert page.tags.count("img") == 4 * 2
    assert page.get("img", "alt")[:2] == ["a sample of any other class", "the same sample with the trigger to class 2 on it"]


def test_a_run_that_found_no_universal_trigger_says_so(run_of: Callable[..., Path]) -> None:
    folder = run_of(3, values=[[None] * 3] * 3, universal=UNIVERSAL[1:2], pictures=False)
    assert "No universal trigger was found: 1 × asr not reached" in Page(write_report(folder)).text


def test_classes_that_were_not_measured_are_left_out(run_of: Callable[..., Path]) -> None:
    values: list[list[float | None]] = [[None] * 43 for _ in range(43)]
    values[3][7] = 20.0
    values[9][7] = 30.0
    page = Page(write_report(run_of(43, values=values)))
    assert "40 classes without a measured pair are left out" in page.text
    assert "class 12" not in page.text


def test_the_command_can_be_given_again(run_of: Callable[..., Path]) -> None:
    page = Page(write_report(run_of()))
    assert "orthogon measure --model 'a net.safetensors' --seed 3" in page.text
    assert "force" not in page.text


def test_what_is_no_run_is_refused(tmp_path: Path, run_of: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"has no distances\.json"):
        write_report(tmp_path)
    folder = run_of()
    (folder / "triggers.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        write_report(folder)
    (folder / "distances.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        write_report(folder)


def test_pairs_that_were_not_asked_for_are_told_beside_the_mean(run_of: Callable[..., Path]) -> None:
    some = read_run(run_of(3, values=[[None, 10.0, None], [None, None, None], [None, 20.0, None]]))
    assert headline(some)[-1] == "4 other pairs were not measured."
    whole = read_run(run_of(2, "whole", values=[[None, 10.0], [20.0, None]]))
    assert not any("not measured" in sentence for sentence in headline(whole))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        read_run(tmp_path / "nowhere")
