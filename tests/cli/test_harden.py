from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from orthogon import runs
from orthogon.cli import hardening, main, parse
from orthogon.cli.harden import Harden
from orthogon.hardening import HardeningProgress, harden
from orthogon.methods import METHODS
from orthogon.protocols import PROTOCOLS

from .conftest import SIGNS
from .quick import QUICK

Command = Callable[..., tuple[int, str, str]]
Result = Callable[..., dict[str, Any]]
PROGRAM = [sys.executable, str(Path(__file__).with_name("quick.py"))]
NUMBERS = {
    **{"--steps": 8, "--check-every": 4, "--batch": 16, "--stamped": 8, "--arms-per-pick": 2, "--updates-per-pick": 2},
    **{"--first-inversion": 6, "--warm-up-inversion": 6, "--inversion": 3, "--trigger-samples": 8, "--prior-samples": 4},
    **{"--max-accuracy-loss": 0.3, "--learning-rate": 0.001, "--average": 0.5},
}
MEASURED = ("--measure", "screen", "--pairs", "0-1,2-0", "--samples", 10)
UNMEASURED = ("--measure", "none")


def words(model: Path, *more: object, method: str = "moth") -> tuple[object, ...]:
    numbers = [part for pair in NUMBERS.items() for part in pair]
    return ("harden", method, "--model", model, "--data", SIGNS, "--held-out", "per-class:12", *numbers, *more)


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Makes `screen` short: what matters here is the way through, not what is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "screen", QUICK)
        yield


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished hardening, measured before and after."""
    folder = tmp_path_factory.mktemp("hardened") / "run"
    assert main([str(word) for word in words(trained, *MEASURED, "--out", folder)]) == 0
    return folder


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_files_of_a_run(run: Path, trained: Path) -> None:
    record, card = read(run / "hardening.json"), read(run / "model.json")
    assert {"method", "family", "unit", "classes", "settings", "versions", "notes", "picks", "restarts"} <= record.keys()
    assert (record["method"], record["step"], record["stopped"]) == ("moth", 8, "steps")
    assert record["settings"]["batch"] == 16
    assert [check["step"] for check in record["checks"]] == [4, 8]
    assert record["picks_total"] == len(record["picks"]["step"]) > 0
    assert record["accuracy"]["images"] == 36
    assert record["accuracy"]["after"] >= record["accuracy"]["before"] - record["accuracy"]["bound"] - 1e-6
    assert record["accuracy"]["bound"] == pytest.approx(0.3)
    assert record["hashes"]["model"] == runs.digest(trained)
    assert record["hashes"]["hardened"] == runs.digest(run / "model.safetensors") != record["hashes"]["model"]
    assert card["accuracy"] == record["accuracy"]["after"]
    assert "hardened by orthogon harden moth" in card["provenance"]
    assert "[without per-class:12]" in card["provenance"]
    assert card["hardening"] == record["settings"]
    given = read(trained.with_suffix(".json"))
    own = ("architecture", "classes", "normalisation", "image_shape")
    assert card["given_model"] == {name: fact for name, fact in given.items() if name not in own}
    assert card.keys() & given.keys() <= {*own, "accuracy", "accuracy_images", "provenance", "hashes", "versions"}
    assert not (run / "checkpoint.safetensors").exists()


def test_distances_before_and_after(run: Path, trained: Path) -> None:
    record = read(run / "hardening.json")
    before, after = read(run / "before.json"), read(run / "after.json")
    assert before["hashes"] == {"model": runs.digest(trained), "data": record["hashes"]["data"]}
    assert after["hashes"] == {"model": record["hashes"]["hardened"], "data": record["hashes"]["data"]}
    assert after["accuracy"] == record["accuracy"]["after"]
    for name, matrix in (("before", before), ("after", after)):
        assert matrix["protocol"] == "screen"
        assert matrix["settings"]["pairs"] == "0-1,2-0"
        assert matrix["outcomes"][0][1] is not None
        assert matrix["outcomes"][1][0] is None
        assert sorted(load_file(run / f"{name}.safetensors")["pairs"].tolist()) == [[0, 1], [2, 0]]


def test_the_report_tells_of_the_hardening(run: Path, command: Command) -> None:
    page = run / "report.html"
    record, text = read(run / "hardening.json"), page.read_text()
    assert "<svg" in text
    assert f"{100 * record['accuracy']['after']:.2f}" in text
    page.unlink()
    assert command("report", run)[0] == 0
    assert page.read_text() == text


def test_the_command_in_the_report_is_the_one_that_was_given(run: Path) -> None:
    found = re.search(r"<pre>(orthogon harden .*?)</pre>", (run / "report.html").read_text(), re.DOTALL)
    assert found
    try:
        parsed = parse(shlex.split(html.unescape(found[1]))[1:])
    except SystemExit:
        pytest.fail("the command line refuses the command of its own report")
    assert isinstance(parsed, Harden)
    assert parsed.method == "moth"
    settings = read(run / "settings.json")["settings"]
    assert parsed.settings.told() == {name: settings[name] for name in parsed.settings.told()}
    assert "pervasive" not in settings


@pytest.mark.parametrize(
    "line", [["universal-adversarial"], ["--out", "nc", "universal-adversarial"], ["--force", "universal-adversarial"]]
)
def test_the_numbers_are_those_of_the_method_named(line: list[str]) -> None:
    parsed = parse(["harden", *line, "--model", "net.safetensors", "--data", "moth"])
    assert isinstance(parsed, Harden)
    assert parsed.settings == METHODS["universal-adversarial"]


def test_the_model_is_loaded_without_more_words(run: Path, result: Result) -> None:
    data = result("evaluate", "--model", run / "model.safetensors", "--data", SIGNS)
    assert data["accuracy"] > 0.5
    weights, card = load_file(run / "model.safetensors"), read(run / "model.json")
    assert card["architecture"] == "resnet20"
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_finished_run_is_read_again(run: Path, trained: Path, command: Command) -> None:
    files = ("model.safetensors", "hardening.json", "before.json", "after.json")
    before = {name: (run / name).stat().st_mtime_ns for name in files}
    code, out, err = command(*words(trained, *MEASURED, "--out", run))
    assert code == 0, err
    assert "finished already" in err
    assert str(run / "model.safetensors") in out
    assert {name: (run / name).stat().st_mtime_ns for name in files} == before


def test_after_is_measured_anew_on_the_finished_model_if_it_is_missing(run: Path, trained: Path, result: Result) -> None:
    shutil.copytree(run, "copy")
    Path("copy/after.json").unlink()
    shutil.rmtree("copy/after", ignore_errors=True)
    result(*words(trained, *MEASURED, "--out", "copy"))
    once, again = read(run / "after.json"), read(Path("copy/after.json"))
    assert again["values"] == once["values"]
    assert again["hashes"] == once["hashes"]


def test_other_settings_are_another_run(run: Path, trained: Path, command: Command) -> None:
    code, out, err = command(*words(trained, *MEASURED, "--out", run, "--steps", 9))
    assert (code, out) == (4, "")
    assert "steps: 8 -> 9" in err


def test_json_stands_alone_on_the_real_standard_output(trained: Path, tmp_path: Path) -> None:
    line = [
        str(word) for word in words(trained, *UNMEASURED, "--out", tmp_path / "run", "--json", method="universal-adversarial")
    ]
    done = subprocess.run([*PROGRAM, *line], capture_output=True, check=True)
    data = json.loads(done.stdout)
    assert data["model_file"] == str(tmp_path / "run" / "model.safetensors")
    assert data["method"] == "universal-adversarial"
    assert data["settings"]["adversary"] == "universal perturbation"  # the method's numbers, beside those given
    assert data["settings"]["steps"] == 8


def test_without_measuring_there_are_no_distances(trained: Path, result: Result) -> None:
    data = result(*words(trained, *UNMEASURED, "--out", "run"))
    assert "mean_before" not in data
    assert {path.name for path in Path("run").glob("*.json")} == {
        "settings.json",
        "accuracy.json",
        "hardening.json",
        "model.json",
    }
    assert "<svg" in Path(data["report"]).read_text()


def test_an_interrupted_run_goes_on_to_the_same_weights(
    run: Path, trained: Path, command: Command, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_short(*arguments: Any, on_progress: Callable[[HardeningProgress], None], **others: Any) -> Any:
        def interrupt(progress: HardeningProgress) -> None:
            on_progress(progress)
            if progress.check is not None:
                raise KeyboardInterrupt

        return harden(*arguments, on_progress=interrupt, **others)

    with monkeypatch.context() as patch:
        patch.setattr(hardening, "harden", cut_short)
        code, out, err = command(*words(trained, *UNMEASURED, "--out", "cut"))
    assert (code, out) == (130, "")
    assert "--out cut" in err
    assert Path("cut/checkpoint.safetensors").exists()
    assert not Path("cut/model.safetensors").exists()
    result(*words(trained, *UNMEASURED, "--out", "cut"))
    assert not Path("cut/checkpoint.safetensors").exists()
    assert read(Path("cut/hardening.json"))["hashes"] == read(run / "hardening.json")["hashes"]
    assert [event["kind"] for event in runs.read_events(Path("cut"))].count("resumed") == 1


def changed(model: Path, factor: float) -> Path:
    """The model with another last layer, and its card, in the working folder."""
    weights = load_file(model)
    for name in [name for name, tensor in weights.items() if tensor.ndim <= 2 and name.startswith(_last(weights))]:
        weights[name] = weights[name] * factor
    save_file(weights, "changed.safetensors")
    Path("changed.json").write_text(model.with_suffix(".json").read_text())
    return Path("changed.safetensors")


def _last(weights: dict[str, Any]) -> str:
    return next(name for name, tensor in reversed(weights.items()) if tensor.ndim == 2).rpartition(".")[0]


def test_distances_measured_earlier_are_taken_over(run: Path, trained: Path, result: Result) -> None:
    data = result(*words(trained, *MEASURED, "--out", "again", "--before", run / "before.json"))
    assert read(Path("again/before.json")) == read(run / "before.json")
    assert not Path("again/before").exists()
    assert data["mean_before"] == pytest.approx(result(*words(trained, *MEASURED, "--out", run))["mean_before"])


def test_distances_of_another_model_or_protocol_are_refused(run: Path, trained: Path, command: Command) -> None:
    before = ("--before", run / "before.json")
    code, out, err = command(*words(changed(trained, 0.5), *MEASURED, "--out", "other", *before))
    assert (code, out) == (2, "")
    assert f'model: "{runs.digest(trained)}" -> "{runs.digest(Path("changed.safetensors"))}"' in err
    code, _, err = command(*words(trained, *MEASURED[:-1], 9, "--out", "fewer", *before))
    assert code == 2
    assert "samples: 10 -> 9" in err
    code, _, err = command(*words(trained, *MEASURED, "--pairs", "all", "--out", "more", *before))
    assert code == 2
    assert 'pairs: "0-1,2-0" -> "all"' in err


def before_with(run: Path, change: Callable[[dict[str, Any]], object]) -> tuple[str, str]:
    """--before with the distances of a run, changed."""
    record = read(run / "before.json")
    change(record)
    Path("before.json").write_text(json.dumps(record))
    return "--before", "before.json"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: record["settings"]["search"].update(asr=0.99), "asr: 0.99 -> 0.9"),
        (lambda record: record["settings"]["search"]["stages"][0].update(steps=99), '"steps": 99'),
        (lambda record: record["settings"]["search"].update(unheard=1), "in a way that this version does not know"),
        (lambda record: record["settings"].pop("search"), "does not tell how it was searched"),
        (lambda record: record.update(draws=5), "draws: 5 -> 1"),
    ],
)
def test_distances_of_another_search_are_refused(
    run: Path, trained: Path, command: Command, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    code, out, err = command(*words(trained, *MEASURED, "--out", "other", *before_with(run, change)))
    assert (code, out) == (2, "")
    assert "was measured otherwise" in err
    assert told in err
    assert not Path("other/before.json").exists()


def test_a_field_that_is_younger_than_the_distances_has_its_default(run: Path, trained: Path, result: Result) -> None:
    older = before_with(run, lambda record: record["settings"]["search"].pop("ease"))
    assert "increase" in result(*words(trained, *MEASURED, "--out", "older", *older))


def test_distances_of_another_seed_are_taken_and_said_to_be(run: Path, trained: Path, command: Command) -> None:
    other = before_with(run, lambda record: record.update(seed=7))
    code, _, err = command(*words(trained, *MEASURED, "--out", "other", *other))
    assert code == 0, err
    assert "was measured with --seed 7, so on other samples than after" in err
    assert "The runs differ in seed: 7 before, 0 after." in Path("other/report.html").read_text()


def test_the_pairs_drawn_by_another_seed_are_others(run: Path, trained: Path, command: Command) -> None:
    def drawn(record: dict[str, Any]) -> None:
        record["settings"]["pairs"] = "random:2"
        record["seed"] = 7

    drawn_pairs = (*MEASURED[:2], "--pairs", "random:2", *MEASURED[4:])
    code, _, err = command(*words(trained, *drawn_pairs, "--out", "other", *before_with(run, drawn)))
    assert code == 2
    assert "seed: 7 -> 0" in err


@pytest.mark.parametrize("content", ["{}", "not JSON", "[]"])
def test_what_is_no_distances_is_refused_without_a_traceback(trained: Path, command: Command, content: str) -> None:
    Path("before.json").write_text(content)
    code, out, err = command(*words(trained, *MEASURED, "--out", "run", "--before", "before.json"))
    assert (code, out) == (2, "")
    assert "before.json" in err


def test_a_model_near_chance_is_refused_without_force(trained: Path, command: Command) -> None:
    guesser = changed(trained, 0.0)
    code, out, err = command(*words(guesser, *UNMEASURED, "--out", "run"))
    assert (code, out) == (3, "")
    assert "--force" in err
    assert command(*words(guesser, *UNMEASURED, "--out", "run", "--force"))[0] == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--held-out", "first:99999"), "none of first:N"),
        (("--held-out", "fraction:1"), "leaves none"),
        (("--minutes", "0"), "minutes must be above 0"),
        (("--min-accuracy", "1.01"), "lower the bound"),
        (("--steps", "4"), "end within the warm-up"),
        (("--epsilon", "2"), "epsilon must be from 0 to 1"),
        (("--before", "nowhere.json", *MEASURED), "nowhere.json"),
    ],
)
def test_bad_words(trained: Path, command: Command, more: tuple[str, ...], told: str) -> None:
    code, out, err = command(*words(trained, *UNMEASURED, *more))
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_a_wrong_method_is_told_with_the_right_ones(trained: Path, command: Command) -> None:
    code, out, err = command(*words(trained, method="mouth"))
    assert (code, out) == (2, "")
    assert "moth-filter" in err
