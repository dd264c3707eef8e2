from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orthogon import runs
from orthogon.report import compare, model_card, write_card, write_report
from orthogon.report.hardened import read_hardened
from orthogon.report.hardened_page import SMALLEST
from orthogon.report.lines import Mark, Point, line_plot

from .hardenings import BEST, LAST
from .test_page import HOSTILE, Page, assert_self_contained

BEFORE = [[None, 10.0, 20.0], [30.0, None, 40.0], [50.0, 60.0, None]]
AFTER = [[None, 15.0, 10.0], [90.0, None, 40.0], [None, 60.0, None]]
FAILED = {(2, 0): "asr not reached"}
NOTHING = {"before": None, "after": None}


@pytest.mark.parametrize(("count", "image_shape"), [(2, (3, 12, 12)), (10, (1, 28, 28)), (43, (3, 12, 12))])
def test_a_page_of_any_number_of_classes_is_whole(
    hardening_of: Callable[..., Path], count: int, image_shape: tuple[int, int, int]
) -> None:
    page = Page(write_report(hardening_of(count, image_shape=image_shape)))
    assert_self_contained(page)
    assert all(page.get("img", "alt"))
    assert page.tags.count("td") > 4 * count**2  # before, after, ratio, picks
    assert not re.search(r"\bnan\b", page.text)


def test_the_verdict_is_equation_8_of_the_paper(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(3, before=BEFORE, after=AFTER, failed=FAILED)))
    # By hand, over the five pairs that both found: +50 %, -50 %, +200 %, 0 %, 0 %; means of 160 / 5 and 215 / 5.
    assert "made the class distances 40.0 % larger on average over 5 pairs (MOTH, Eq. 8)" in page.text
    assert "their mean went from 32.0 to 43.0, from a patch of about 11 to one of about 14 of 144 pixels" in page.text
    assert "The closest pair was class 0 → class 1 at 10.0; now it is class 0 → class 2 at 10.0." in page.text
    assert "Accuracy on 2,000 held-out images went from 92.35 % to 91.90 %, within the bound of 1 percentage point." in page.text
    assert "Hardening took 20 min and 1,500 steps; it stopped because its time was used up." in page.text
    assert "1 pair had a distance before and has none after (asr not reached" in page.text
    assert "+40.0 %" in page.texts


def test_distances_that_shrank_are_said_to(hardening_of: Callable[..., Path]) -> None:
    accuracy = {"before": 0.9, "after": 0.8, "images": 500, "bound": 0.02}
    page = Page(
        write_report(hardening_of(2, before=[[None, 40.0], [20.0, None]], after=[[None, 20.0], [10.0, None]], accuracy=accuracy))
    )
    assert "50.0 % smaller on average over 2 pairs" in page.text
    assert "The closest pair, class 1 → class 0, went from 20.0 to 10.0 and is still the closest." in page.text
    assert "from 90.00 % to 80.00 %, beyond the bound of 2 percentage points" in page.text


def test_before_and_after_are_on_one_scale_and_the_ratio_around_one(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(3, before=BEFORE, after=AFTER, failed=FAILED)))
    assert page.source.count("<b>10.0</b><b>50.0</b><b>90.0</b>") == 2
    assert "<b>× 0.33</b><b>× 1.00</b><b>× 3.00</b>" in page.source
    cells = dict(re.findall(r'<td class="(\w+)" title="(class \d → class \d: [^"]*before[^"]*)"', page.source))
    assert cells["r40"] == "class 1 → class 0: 30.0 before, 90.0 after, × 3.00"
    assert re.search(r'<td class="r20" title="class 1 → class 2: 40.0 before, 40.0 after, × 1.00">1.00<', page.source)
    assert "not in both (1)" in page.text


def test_the_closest_pairs_stand_before_and_after_side_by_side(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of()
    page = Page(write_report(folder))
    closest = [
        {tuple(pair) for pair in triggers["pairs"][triggers["size"].argsort()[:SMALLEST]].tolist()}
        for triggers in (load_file(folder / f"{side}.safetensors") for side in ("before", "after"))
    ]
    shown = len(closest[0] | closest[1])
    assert page.tags.count("img") == shown * 2 * 4
    assert page.text.count("closest of all") == 2
    assert sum(alt.startswith("after: a sample of") for alt in page.get("img", "alt")) == shown


def test_a_pair_that_was_not_found_after_has_no_picture_after(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(3, before=BEFORE, after=AFTER, failed=FAILED)))
    assert "no distance: asr not reached" in page.text
    assert page.tags.count("img") == (6 + 5) * 4


def test_a_family_without_a_mask_is_drawn_by_the_same_function(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(3)
    for side in ("before", "after"):
        tensors = load_file(folder / f"{side}.safetensors")
        del tensors["trigger.mask"]
        runs.write_tensors(folder / f"{side}.safetensors", tensors)
    assert Page(write_report(folder)).tags.count("img") == 6 * 2 * 3


def test_the_course_has_the_checks_the_bound_and_the_kept_model(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of()
    page = Page(write_report(folder))
    checks = json.loads((folder / "hardening.json").read_text())["checks"]
    for check in checks:
        assert f"step {check['step']:,}: {100 * check['accuracy']:.2f} %" in page.texts
    best = next(check for check in checks if check["step"] == BEST)
    assert f"step {BEST:,}: {best['distance']:.1f}" in page.texts
    assert "No model below the bound, 91.35 %, may be kept." in page.text
    assert page.source.count('class="across limit"') == 1
    assert page.source.count("<title>hardened model</title>") == 2
    assert "Training began again from its last good state at step 120: loss became NaN" in page.text


def test_the_pairs_that_were_closest_have_a_line_each(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(4)
    page, run = Page(write_report(folder)), read_hardened(folder)
    assert page.source.count('<path class="lead ') == SMALLEST
    assert run.before is not None
    values = run.before.matrix.values
    victim, target = divmod(int(values.nan_to_num(1e9).argmin()), 4)
    sizes = [
        (pick.step, pick.size) for pick in run.picks if (pick.victim, pick.target) == (victim, target) and pick.size == pick.size
    ]
    for step, size in sizes:
        assert f"class {victim} → class {target}, step {step:,}: {size:.1f}" in page.texts


def test_every_pick_is_counted(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(5)
    page = Page(write_report(folder))
    picks = json.loads((folder / "hardening.json").read_text())["picks"]
    pairs = [pair for pair in zip(picks["victim"], picks["target"], strict=True) if pair[0] is not None]
    for victim, target in set(pairs):
        count = pairs.count((victim, target))
        assert any(title.startswith(f"class {victim} → class {target}: picked {count:,} ×") for title in page.get("td", "title"))
    assert f"Training searched {len(pairs):,} triggers of pairs and 5 universal triggers" in page.text
    assert f"{picks['size'].count(None)} of these searches found none" in page.text


def test_a_page_that_lists_some_pairs_and_checks_tells_of_how_many(hardening_of: Callable[..., Path]) -> None:
    checks = [{"step": step, "seconds": step, "accuracy": 0.9, "distance": 60, "loss": 0.5, "kept": False} for step in range(600)]
    text = Page(write_report(hardening_of(46, pictures=False, checks=checks))).text
    assert "2070 pairs, sorted by distance before" in text
    assert "The other 2060 pairs" in text
    assert "The other 70 pairs are in before.json and after.json." in text
    assert "All 600 checks as a table" in text
    assert "The other 100 checks are in hardening.json." in text


def test_universal_picks_stand_with_their_target(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(23, **NOTHING, universal_only=True)))
    assert_self_contained(page)
    assert "universal triggers (from every class to one)" in page.text
    assert "The other 3 classes" in page.text
    assert "The closest pairs" not in page.text


def test_a_run_without_measurements_says_so(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(**NOTHING)))
    assert_self_contained(page)
    assert "This run has no distances from before and after hardening" in page.text
    assert "91.90 %" in page.texts
    assert "Distances before and after" not in page.text
    assert "img" not in page.tags
    assert "closest when it first saw them" in page.text


def test_a_run_measured_on_one_side_shows_that_side(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(after=None)))
    assert "This run has no distances from after hardening" in page.text
    assert "Distances before" in page.texts
    assert "Ratio" not in page.text


def test_training_without_triggers_or_checks_still_has_a_page(hardening_of: Callable[..., Path]) -> None:
    picks: dict[str, list[int]] = {"step": [], "victim": [], "target": [], "size": []}
    page = Page(write_report(hardening_of(picks=picks, checks=[], restarts=[], best_step=None, method="adversarial")))
    assert_self_contained(page)
    assert "Training searched no triggers." in page.text
    assert "The model was never checked in training." in page.text
    assert "restart" not in page.text


def test_a_hardening_that_kept_nothing_says_so(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of(3, best_step=0)))
    assert "No later model could be kept: the one written is the model as it was." in page.text


def test_hostile_names_are_text(hardening_of: Callable[..., Path]) -> None:
    restarts = [{"step": 3, "reason": "<b>\u202e"}]
    page = Page(write_report(hardening_of(5, classes=HOSTILE, restarts=restarts, stopped="<i>", method="{{ 7*7 }}")))
    assert_self_contained(page)
    assert "<script>alert(1)</script>" in page.texts
    assert "\u202e" not in page.source


def test_everything_needed_to_do_it_again_is_there(hardening_of: Callable[..., Path]) -> None:
    page = Page(write_report(hardening_of()))
    assert "orthogon harden moth --model /home/alice/net.safetensors --minutes 20.0 --seed 3 --flip" in page.text
    for text in ("ab" * 32, "cd" * 32, "ef" * 32, "k-arm", "2.9", "inversion", "10 min", "8 min", "20 min"):
        assert text in page.texts


def test_what_is_no_finished_hardening_is_refused(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(3)
    record = json.loads((folder / "hardening.json").read_text())
    runs.write_json(folder / "hardening.json", record | {"classes": record["classes"][:2]})
    with pytest.raises(ValueError, match="there are 2 classes"):
        write_report(folder)
    (folder / "hardening.json").unlink()
    with pytest.raises(ValueError, match=r"has no hardening\.json"):
        write_report(folder)


def test_the_card_is_of_the_hardened_model_and_tells_what_changed(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(3, before=BEFORE, after=AFTER, failed=FAILED)
    markdown, path = write_card(folder)
    text, data = markdown.read_text(encoding="utf-8"), json.loads(path.read_text())
    assert data == model_card(folder)[1]
    assert data["values"][2][0] is None
    assert data["mean"] == pytest.approx(43.0)
    changed = data["hardening"]
    assert changed["increase"] == pytest.approx(0.4)
    assert (changed["pairs_in_both"], changed["mean_before"], changed["mean_after"]) == (5, 32.0, 43.0)
    assert (changed["accuracy"]["before"], changed["accuracy"]["after"], changed["method"]) == (0.9235, 0.919, "moth")
    assert changed["before"]["values"][2][0] == 50.0
    assert text.index("## Hardening") < text.index("## Class distances")
    assert "| Mean distance, over the pairs that have one in both | 32.0 | 43.0 |" in text
    assert "| Accuracy on 2,000 held-out images | 92.35 % | 91.90 % |" in text
    assert "| class 0 | class 1 | 10.0 | 15.0 | × 1.50 |" in text
    assert "alice" not in text + path.read_text()
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_card_of_an_unmeasured_run_has_no_distances(hardening_of: Callable[..., Path]) -> None:
    text, data = model_card(hardening_of(**NOTHING))
    assert "This run has no distances" in text
    assert "## Class distances" not in text
    assert "values" not in data
    assert data["hardening"]["accuracy"]["after"] == 0.919


def test_a_hardened_model_is_compared_by_its_distances_after(
    hardening_of: Callable[..., Path], run_of: Callable[..., Path]
) -> None:
    measured = run_of(3, values=BEFORE)
    comparison = compare(measured, hardening_of(3, before=BEFORE, after=AFTER, failed=FAILED))
    assert comparison.increase == pytest.approx(0.4)
    assert comparison.only_before == ((2, 0),)
    with pytest.raises(
        ValueError, match=r"without after\.json .* measure its model with `orthogon measure --model .*model\.safetensors"
    ):
        compare(measured, hardening_of(3, "other", before=BEFORE, after=None))


def test_an_older_folder_without_settings_is_known_by_its_files(hardening_of: Callable[..., Path]) -> None:
    folder = hardening_of(2)
    (folder / "settings.json").unlink()
    assert "Hardening of" in write_report(folder).read_text(encoding="utf-8")


def test_labels_of_lines_do_not_lie_upon_each_other() -> None:
    series = [
        (name, [Point(0.0, 1.0, ""), Point(9.0, end, "")]) for name, end in zip("abcd", (5.0, 5.01, 5.02, 0.0), strict=True)
    ]
    plot = line_plot(series, 10.0, across=[Mark(4.0, "bound")])
    places = sorted(line.place for line in plot.lines)
    assert all(b - a >= 6 for a, b in pairwise(places))
    assert min(places) >= 0
    assert max(places) <= 100
    assert [label for _, label in plot.y_ticks] == ["0", "1", "2", "3", "4", "5"]
    assert [label for _, label in plot.x_ticks] == ["0", "2", "4", "6", "8", "10"]
    assert plot.lines[3].end == 100.0
    assert plot.lines[3].path.endswith("L900 1000")


def test_the_last_step_is_that_of_the_whole_training(hardening_of: Callable[..., Path]) -> None:
    assert read_hardened(hardening_of()).last_step == LAST
