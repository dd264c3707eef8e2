"""Pervasive triggers on the command line: the words, what stands in the results, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orthogon import triggers
from orthogon.cli import parse
from orthogon.cli.harden import Harden
from orthogon.cli.measure import Measure
from orthogon.methods import METHODS, PervasiveSettings
from orthogon.protocols import PROTOCOLS
from orthogon.triggers import FAMILIES, Pervasive
from orthogon.triggers.decoder import read_decoder, write_decoder
from orthogon.triggers.encoder import WEIGHTS

from .conftest import SIGNS
from .quick import QUICK
from .test_bench import SMALL
from .test_harden import words as harden_words

sys.path.insert(0, str(Path(__file__).parents[1] / "triggers"))
from pervasive_networks import drawn

Command = Callable[..., tuple[int, str, str]]
Result = Callable[..., dict[str, Any]]
CHOSEN = ("--encoder", "net.safetensors", "--encoder-layer", "pool2", "--encoder-scale", "caffe", "--encoder-resolution", "64")
CHOSEN = (
    *CHOSEN,
    "--decoder",
    "runs",
    "--upsampling",
    "zero",
    "--statistics",
    "shared",
    "--regions",
    "2",
    "--content-weight",
    "0.5",
)
SETTINGS = PervasiveSettings("net.safetensors", "pool2", "caffe", 64, "runs", "zero", "shared", 2, content_weight=0.5)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Networks of four channels, and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "screen", QUICK)
        patch.setitem(FAMILIES, "pervasive", Pervasive(networks=drawn(), regions=2))
        yield


def measure(model: Path, *more: object) -> tuple[object, ...]:
    line = ("measure", "--model", model, "--data", SIGNS, "--protocol", "screen", "--samples", 8, "--pairs", "0-1,2-0")
    return (*line, "--family", "pervasive", *more)


def test_the_words_are_the_same_where_triggers_are_measured_and_where_they_harden() -> None:
    subject = ("--model", "m", "--data", "d")
    measuring, hardening = parse(["measure", *subject, *CHOSEN]), parse(["harden", "deck", *subject, *CHOSEN])
    assert isinstance(measuring, Measure)
    assert isinstance(hardening, Harden)
    assert measuring.pervasive == hardening.settings.pervasive == SETTINGS
    assert hardening.settings.family == METHODS["deck"].family == "pervasive"


def test_results_tell_the_networks_and_the_report_draws_the_images(trained: Path, result: Result) -> None:
    data = result(*measure(trained, "--out", "run"))
    assert (data["family"], data["unit"]) == ("pervasive", Pervasive.unit)
    assert data["measured_by"] == FAMILIES["pervasive"].described()
    settings = json.loads(Path("run/settings.json").read_text())["settings"]
    assert settings["pervasive"]["encoder"] == "embedded"
    page = Path(data["report"]).read_text()
    assert page.count('alt="a sample of') == sum(outcome == "found" for row in data["outcomes"] for outcome in row) > 0
    assert "--encoder embedded" in page


def test_the_embedded_encoder_is_said_aloud_and_another_resolution_is_not_compared(trained: Path, command: Command) -> None:
    for name, side in (("as-it-is", ()), ("larger", ("--encoder-resolution", 24))):
        code, _, err = command(*measure(trained, "--pairs", "0-1", "--out", name, *side, "--regions", 1))
        assert code == 0, err
        assert "encoder: embedded (small, trained by this project" in err
    assert "resized to 24" in err
    code, _, err = command("compare", "as-it-is", "larger")
    assert code == 2
    assert "the runs differ in encoder resolution: as-it-is has None, larger has 24" in err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--encoder", "absent.safetensors"), "absent.safetensors is no encoder"),
        (("--encoder-layer", "pool2"), "the embedded encoder ends at pool1"),
        (("--encoder-scale", "torch"), "leave its scale out"),
        (("--decoder", "absent"), "there is no decoder absent"),
        (("--upsampling", "zero", "--decoder", "."), "no decoder of . decodes the features of embedded"),
        (("--regions", "3"), "3×3 regions do not divide the features of 16×16 images, 8×8; give regions=1 or 2 or 4 or 8"),
        (("--kernel", "2"), "kernel odd"),
        (("--family", "patch", "--encoder-layer", "pool2"), "--encoder-layer: pervasive triggers alone have such a thing"),
    ],
)
def test_bad_words(trained: Path, command: Command, more: tuple[str, ...], told: str) -> None:
    code, out, err = command(*measure(trained, *more))
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_images_that_do_not_fit_are_told_before_the_first_distance(trained: Path, command: Command) -> None:
    more = ("--distances", "filter", "--regions", "3", "--out", "early")
    code, _, err = command(*harden_words(trained, *more, method="deck"))
    assert code == 2
    assert "3×3 regions do not divide" in err
    assert not Path("early").exists()


def test_a_removal_is_by_its_networks_and_not_by_their_names(trained: Path, command: Command, result: Result) -> None:
    decoder = read_decoder(WEIGHTS / "decoder-embedded-pool1.safetensors")
    assert decoder.facts is not None
    write_decoder(Path("decoder.safetensors"), decoder, decoder.facts)
    numbers = [word for value in ("steps=12", "regions=2", "check_every=12") for word in ("--set", value)]
    asked = (
        "remove",
        "deck",
        "--model",
        trained,
        "--data",
        SIGNS,
        *numbers,
        "--set",
        "decoder=decoder.safetensors",
        "--out",
        "run",
    )
    data = result(*asked)
    first = data["hardened_by"]["decoder"]["digest"]
    decoder.blocks[0][0].weight.data *= 1.01  # type: ignore[index]
    write_decoder(Path("decoder.safetensors"), decoder, decoder.facts)
    triggers._opened_once.cache_clear()  # as in another process
    code, _, err = command(*asked)
    assert code == 4, err
    assert first in json.dumps(json.loads(Path("run/settings.json").read_text())["inputs"])


def test_deck_hardens_and_its_networks_stand_in_the_results(trained: Path, result: Result) -> None:
    more = ("--measure", "screen", "--pairs", "0-1", "--samples", 8, "--out", "run")
    data = result(*harden_words(trained, *more, method="deck"))
    by = FAMILIES["pervasive"].described()
    assert (data["method"], data["family"], data["unit"], data["hardened_by"]) == ("deck", "pervasive", Pervasive.unit, by)
    for name in ("before", "after"):
        record = json.loads(Path(f"run/{name}.json").read_text())
        assert (record["family"], record["measured_by"]) == ("pervasive", by)
    assert "orthogon harden deck" in (page := Path(data["report"]).read_text())
    assert "--encoder" not in page.split("orthogon harden deck")[1].split("</pre>")[0]  # it is the method's own
    (earlier,) = {json.dumps(json.loads(Path("run/before.json").read_text())["values"])}
    again = result(*harden_words(trained, *more[:-1], "other", "--before", "run/before.json", method="deck"))
    assert json.dumps(json.loads(Path("other/before.json").read_text())["values"]) == earlier
    assert again["mean_before"] == data["mean_before"]


def bench(model: Path, grid: str, rows: str) -> tuple[object, ...]:
    updates = ("--arms-per-pick", 2, "--updates-per-pick", 2, "--trigger-samples", 6)
    numbers = ("--pairs", "0-1", *updates, "--out", "run")
    return ("bench", grid, "--model", model, "--data", SIGNS, *SMALL, *numbers, "--rows", rows, "--subject", "cifar10-resnet20")


def test_rows_of_a_table_are_measured_by_pervasive_triggers_whatever_hardens_them(trained: Path, result: Result) -> None:
    data = result(*bench(trained, "deck-table1", "moth"))
    (row,) = data["rows"]
    assert (row["status"], row["published"]["increase"]) == ("finished", 0.1404)
    assert (data["unit"], data["measured_by"]) == (Pervasive.unit, FAMILIES["pervasive"].described())
    assert (data["natural"]["published"]["distance"], data["hardening"]["moth"]["family"]) == (22.62, "patch")
    page = Path(data["report"]).read_text()
    assert all(word in page for word in ("Encoder and decoder", "encoder.digest", "+14.0 %"))


def test_an_ablation_that_the_encoder_has_no_layer_for_fails_alone(trained: Path, result: Result) -> None:
    data = result(*bench(trained, "deck-table10", "deck,pool2"))
    deck, pool2 = data["rows"]
    assert (deck["status"], pool2["status"]) == ("finished", "failed")
    assert "the embedded encoder ends at pool1, so it has no pool2" in pool2["reason"]
    assert data["hardening"]["pool2"]["pervasive"]["encoder_layer"] == "pool2"


def test_words_of_pervasive_triggers_do_not_stop_a_row_that_has_none(trained: Path, result: Result) -> None:
    data = result(*bench(trained, "deck-cross-patch", "moth"), "--regions", 1)
    (row,) = data["rows"]
    assert (row["status"], row["reason"], row["published"]["distance"]) == ("finished", None, 109.70)
    assert data["measured_by"] is None


def test_another_kind_of_distance_does_not_hide_the_networks_that_harden(trained: Path, command: Command) -> None:
    more = ("--distances", "filter", "--measure", "screen", "--pairs", "0-1", "--samples", 8, "--out", "run")
    code, _, err = command(*harden_words(trained, *more, method="deck"))
    assert code == 0, err
    assert err.count("encoder: drawn, pool1") == 1
    by = FAMILIES["pervasive"].described()
    for name in ("hardening", "after"):
        record = json.loads(Path(f"run/{name}.json").read_text())
        assert (record["hardened_by"], record.get("measured_by")) == (by, None)
    assert json.loads(Path("run/after.json").read_text())["family"] == "filter"


def test_distances_of_another_kind_are_a_second_opinion(trained: Path, result: Result, command: Command) -> None:
    more = ("--measure", "screen", "--pairs", "0-1", "--samples", 8, "--out", "run")
    data = result(*harden_words(trained, *more, "--distances", "pervasive"))
    assert (data["method"], data["family"]) == ("moth", "patch")
    record = json.loads(Path("run/after.json").read_text())
    assert (record["family"], record["unit"]) == ("pervasive", Pervasive.unit)
    assert f"Unit: {Pervasive.unit}" in Path(data["report"]).read_text()
    code, _, err = command(*harden_words(trained, *more))
    assert code == 4, err
