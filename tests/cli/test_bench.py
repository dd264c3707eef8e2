from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orthogon.bench import GRIDS, numbers_of
from orthogon.cli import benching, main, parse
from orthogon.cli.bench import HardeningBench
from orthogon.cli.harden import Harden
from orthogon.cli.screen import Result, Screen
from orthogon.data import open_images
from orthogon.hardening import HardeningDiverged
from orthogon.protocols import PROTOCOLS

from .conftest import SIGNS
from .quick import QUICK

Command = Callable[..., tuple[int, str, str]]
ROWS = "moth,universal"
SMALL = ["--steps", "12", "--batch", "16", "--stamped", "8", "--first-inversion", "6", "--inversion", "3"]
SMALL += ["--warm-up-inversion", "6", "--check-every", "6", "--held-out", "fraction:0.3"]
SMALL += ["--measure", "screen", "--pairs", "0-1,2-0", "--samples", "8"]


def bench(trained: Path, out: Path, *more: str) -> list[str]:
    return ["bench", "moth-table1", "--model", str(trained), "--data", SIGNS, "--out", str(out), *SMALL, *more]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "screen", QUICK)


@pytest.fixture(scope="session")
def two_rows(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished rows."""
    out = tmp_path_factory.mktemp("bench") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "screen", QUICK)
        assert main(bench(trained, out, "--rows", ROWS, "--subject", "svhn-nin")) == 0
    return out


def test_two_rows_are_measured_beside_the_published_ones(two_rows: Path) -> None:
    record = json.loads((two_rows / "bench.json").read_text())
    assert [line["row"] for line in record["rows"]] == ["universal", "moth"]
    assert record["subject"]["name"] == "svhn-nin"
    natural = record["natural"]["accuracy"]
    for line in record["rows"]:
        after, before = (json.loads((two_rows / line["row"] / f"{name}.json").read_text()) for name in ("after", "before"))
        changes = [after["values"][v][t] / before["values"][v][t] - 1 for v, t in ((0, 1), (2, 0))]
        assert line["increase"] == pytest.approx(sum(changes) / 2, rel=1e-4)  # Eq. 8 by hand
        assert line["lost"] == pytest.approx(natural - line["accuracy"])
        assert line["minutes"] > 0
    assert record["rows"][1]["published"]["increase"] == 1.0256
    one, other = ((two_rows / row / "before.json").read_text() for row in ("universal", "moth"))
    assert one == other  # measured once
    page, markdown = (two_rows / "bench.html").read_text(), (two_rows / "bench.md").read_text()
    assert 'href="moth/report.html"' in page
    assert "https://" not in page
    assert "+102.6 %" in page
    assert "+102.6 %" in markdown


def test_finished_rows_are_read_and_the_subject_may_change(
    two_rows: Path, trained: Path, result: Callable[..., dict[str, Any]]
) -> None:
    kept = {row: (two_rows / row / "model.safetensors").stat().st_mtime_ns for row in ("moth", "universal")}
    data = result(*bench(trained, two_rows, "--rows", "moth"))
    assert [line["status"] for line in data["rows"]] == ["finished", "finished"]  # the row of the earlier command stays
    assert data["subject"] is None
    assert all(line["published"] is None for line in data["rows"])
    assert {row: (two_rows / row / "model.safetensors").stat().st_mtime_ns for row in kept} == kept
    assert "no model of the paper was named" in (two_rows / "bench.md").read_text()


@pytest.mark.parametrize("error", [HardeningDiverged("the loss was not finite"), KeyboardInterrupt()])
def test_a_row_that_fails_is_listed_and_one_interrupted_goes_on(
    error: BaseException, trained: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def harden_and_write(words: Harden, screen: Screen) -> Result:
        asked.append(words.method)
        if words.method == "universal" and len(asked) == 1:
            raise error
        return harden(replace(words, measure="none"), screen)

    harden = benching.harden_and_write
    monkeypatch.setattr(benching, "harden_and_write", harden_and_write)
    out = tmp_path / "run"
    words = bench(trained, out, "--rows", ROWS)
    code, shown, told = command(*words)
    if isinstance(error, KeyboardInterrupt):
        assert code == 130
        assert not (out / "moth").exists()
        assert command(*words)[0] == 0
    else:
        assert code == 0, told
        assert "universal failed" in shown.lower()
        failed, other = json.loads((out / "bench.json").read_text())["rows"]
        assert (failed["status"], failed["reason"], other["status"]) == ("failed", "the loss was not finite", "finished")
        assert command(*words, "--rows", "universal")[0] == 0  # tried again
    assert [line["status"] for line in json.loads((out / "bench.json").read_text())["rows"]] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--rows", "moht"], "'moht' is none of moth-table1's"),
        (["--subject", "imagenet"], "'imagenet' is none of moth-table1's"),
        (["--arms", "directed"], "--arms makes the method"),
        (["--test-split", "exam"], "--test-split and --test-data say which"),
        (["--rows", "nc", "--pairs", "0-9"], "no row could be finished"),
    ],
)
def test_wrong_words_are_told(more: list[str], reason: str, trained: Path, tmp_path: Path, command: Command) -> None:
    code, out, err = command(*bench(trained, tmp_path / "run", *more))
    assert (code, out) == (2, "")
    assert reason in err


def test_list_and_help_tell_the_grids(command: Command, result: Callable[..., dict[str, Any]]) -> None:
    _, listed, _ = command("bench", "list")
    _, helped, _ = command("bench", "--help")
    for name in GRIDS:
        assert name in listed
        assert name in helped
    assert "no-scheduler" in listed
    assert "svhn-resnet32" in result("bench", "list")["moth-table1"]["subjects"]


def test_a_number_that_is_said_counts_although_it_is_a_default() -> None:
    words = parse(["bench", "deck-table1", "--model", "m", "--data", "d", "--steps", "500", "--updates_per_pick=3"])
    assert isinstance(words, HardeningBench)
    assert words.given == ("steps", "updates_per_pick")
    settings = {row.key: row.settings(numbers_of(words.settings, words.given)) for row in GRIDS["deck-table1"].rows if row.method}
    assert {(one.steps, one.updates_per_pick) for one in settings.values()} == {(500, 3)}


def test_test_images_that_are_learned_from_do_not_judge(trained: Path, tmp_path: Path, command: Command) -> None:
    """Arrays without a training part: the methods train on what is there."""
    images = open_images(SIGNS, split="train", image_shape=(3, 16, 16))
    arrays = {"x_test": images.pixels.permute(0, 2, 3, 1).numpy(), "y_test": images.labels.numpy()}
    np.savez(tmp_path / "only.npz", **arrays)
    words = ["bench", "moth-table1", "--model", str(trained), "--data", str(tmp_path / "only.npz"), *SMALL, "--rows", "moth"]
    code, _, err = command(*words, "--out", "run")
    assert code == 2
    assert "test images are among those that the methods train on" in err
    code, _, err = command(*words, "--test-data", SIGNS, "--test-split", "test", "--out", "run")
    assert code == 0, err
