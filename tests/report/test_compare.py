from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from orthogon import runs
from orthogon.protocols import PROTOCOLS, InversionSettings
from orthogon.report import compare, write_comparison
from orthogon.report.reading import search_settings

BEFORE = [[None, 10.0, 20.0], [30.0, None, 40.0], [50.0, 60.0, None]]
AFTER = [[None, 15.0, 10.0], [90.0, None, 40.0], [None, 60.0, None]]
FAILED = {(2, 0): "asr not reached"}


def _two(run_of: Callable[..., Path], **changes: object) -> tuple[Path, Path]:
    return run_of(3, "before", values=BEFORE), run_of(3, "after", values=AFTER, failed=FAILED, **changes)


def test_the_increase_is_equation_8_of_the_paper(run_of: Callable[..., Path]) -> None:
    comparison = compare(*_two(run_of))
    # By hand, over the five pairs that both found: +50 %, -50 %, +200 %, 0 %, 0 %.
    assert comparison.increase == pytest.approx((0.5 - 0.5 + 2.0 + 0.0 + 0.0) / 5)
    assert comparison.common == 5
    assert comparison.mean_before == pytest.approx(32.0)  # of these five, as the increase is
    assert comparison.mean_after == pytest.approx(43.0)
    assert comparison.only_before == ((2, 0),)
    assert comparison.only_after == ()
    assert comparison.ratio[1, 0] == pytest.approx(3.0)
    assert math.isnan(comparison.ratio[2, 0])
    assert comparison.warnings == ()
    assert json.loads(json.dumps(comparison.to_json(), allow_nan=False))["ratio"][2][0] is None


@pytest.mark.parametrize(
    ("name", "value"), [("unit", "mask L1"), ("family", "colour"), ("classes", ["class 0", "class 1", "other"])]
)
def test_runs_of_other_things_are_refused(run_of: Callable[..., Path], name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"differ in {name}"):
        compare(*_two(run_of, **{name: value}))


def test_another_protocol_is_a_warning(run_of: Callable[..., Path], tmp_path: Path) -> None:
    comparison = compare(*_two(run_of, protocol="screen"))
    assert comparison.warnings == ("The runs differ in protocol: fast before, screen after.",)
    page = write_comparison(comparison, tmp_path / "page.html").read_text(encoding="utf-8")
    assert comparison.warnings[0] in page


def test_other_samples_draws_and_seeds_are_warnings(run_of: Callable[..., Path]) -> None:
    before, after = _two(run_of)
    for folder, changes in ((before, {"samples": 100, "draws": 1, "seed": 0}), (after, {"samples": 50, "draws": 5, "seed": 1})):
        runs.write_json(folder / "distances.json", runs.read_json(folder / "distances.json") | changes)
    assert compare(before, after).warnings == (
        "The runs differ in samples: 100 before, 50 after.",
        "The runs differ in draws: 1 before, 5 after.",
        "The runs differ in seed: 0 before, 1 after.",
    )


def _searched(settings: InversionSettings, without: str = "") -> dict[str, object]:
    told = json.loads(json.dumps(asdict(settings)))
    return {"settings": {"search": {name: value for name, value in told.items() if name != without}}}


def test_a_protocol_that_has_come_to_mean_something_else_is_a_warning(run_of: Callable[..., Path]) -> None:
    fast = PROTOCOLS["fast"].settings
    before = run_of(3, "before", values=BEFORE, **_searched(replace(fast, asr=0.99, weight_patience=5)))
    after = run_of(3, "after", values=AFTER, failed=FAILED, **_searched(fast))
    assert compare(before, after).warnings == ("The runs differ in what their protocol stands for: asr, weight patience.",)
    older = run_of(3, "older", values=BEFORE, **_searched(fast, without="ease"))
    assert compare(older, after).warnings == ()


def test_the_search_of_a_record() -> None:
    fast = PROTOCOLS["fast"].settings
    assert search_settings(_searched(fast)) == fast
    assert search_settings(_searched(replace(fast, ease=3.0), without="ease")) == fast  # a younger field has its default
    assert search_settings({"settings": {"seed": 3}}) is None
    assert search_settings({}) is None
    for told in ({"search": {"stages": [{"unheard": 1}]}}, {"search": {"asr": 0.9}}, {"search": {"stages": [], "asr": 0.9}}):
        with pytest.raises(ValueError, match="in a way that this version does not know"):
            search_settings({"settings": told})


def test_the_page_has_both_on_one_scale(run_of: Callable[..., Path], tmp_path: Path) -> None:
    page = write_comparison(compare(*_two(run_of)), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "grew by 40.0 % on average" in page
    assert "+40.0 %" in page
    assert len(re.findall("<b>10.0</b><b>50.0</b><b>90.0</b>", page)) == 2
    assert '<td class="r40"' in page
    assert "nan" not in re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search("https?://", page)


def test_a_page_that_lists_some_pairs_tells_of_how_many(run_of: Callable[..., Path], tmp_path: Path) -> None:
    comparison = compare(run_of(46, "before"), run_of(46, "after", seed=1))
    page = write_comparison(comparison, tmp_path / "page.html").read_text(encoding="utf-8")
    assert comparison.common == 46 * 45
    assert "2070 pairs, sorted by distance before" in page
    assert "<summary>The other 2058 pairs</summary>" in page
    assert "The other 70 pairs are in the files of both runs." in page


def test_runs_without_a_pair_in_common_have_no_increase(run_of: Callable[..., Path], tmp_path: Path) -> None:
    one = run_of(2, "one", values=[[None, 5.0], [None, None]])
    other = run_of(2, "other", values=[[None, None], [7.0, None]])
    comparison = compare(one, other)
    assert math.isnan(comparison.increase)
    assert (comparison.only_before, comparison.only_after) == (((0, 1),), ((1, 0),))
    page = write_comparison(comparison, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No pair has a distance in both runs." in page
