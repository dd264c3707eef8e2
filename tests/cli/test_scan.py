from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthogon import attack_success, load_classifier, open_images, runs
from orthogon.cli import main, parse, scanning_fleet, scanning_inputs
from orthogon.cli.scan import Scan
from orthogon.cli.scanning import short_name
from orthogon.cli.scanning_inputs import calibration_facts
from orthogon.cli.scanning_models import Named, named_models
from orthogon.fleet import Job, run_here
from orthogon.naming import named, settings_of
from orthogon.protocols import PROTOCOLS
from orthogon.scanning import SCANNERS, Ensemble, fit
from orthogon.scanning.calibration import Calibration
from orthogon.scanning.evidence import stamp_of
from orthogon.scanning.mm_bd import MMBD
from orthogon.scanning.neural_cleanse import NeuralCleanse
from orthogon.triggers import FAMILIES

from .quick import QUICK

Command = Callable[..., tuple[int, str, str]]
ZOO = Path(__file__).parents[2] / "zoo"
MODEL = ZOO / "signs-badnets" / "model.safetensors"
SIGNS = "signs:classes=6,size=20,per_class=8"
NEURAL_CLEANSE = ("scan", "--model", MODEL, "--data", SIGNS, "--scanner", "nc", "--set", "protocol=screen", "--set", "samples=8")
MARGINS = ("scan", "--scanner", "mm-bd", "--set", "starts=1", "--set", "steps=1")
VERDICTS = {"clean": 0, "backdoored": 10, "inconclusive": 11}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scan of a poisoned model, with a short search."""
    out = tmp_path_factory.mktemp("scanned") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROTOCOLS, "screen", replace(QUICK, samples=8))
        assert main([str(word) for word in (*NEURAL_CLEANSE, "--set", "flagged_above=0.5", "--out", out)]) == 10
    return out


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_files_of_a_run(run: Path) -> None:
    record = read(run / "scan.json")
    assert (record["verdict"], record["probability"], record["scanner"]) == ("backdoored", None, "nc")
    assert record["settings"]["flagged_above"] == 0.5
    assert record["score"] > record["threshold"] == 0.5
    assert record["hashes"]["model"] == runs.digest(MODEL)
    assert record["accuracy"] > 0.9
    assert record["pairs"][0]["target_name"] == record["classes"][record["pairs"][0]["target"]]
    assert [event["kind"] for event in runs.read_events(run)] == ["started", "draw"]


def test_triggers_are_judged_on_all_images_by_the_model_itself(run: Path) -> None:
    pair, tensors = read(run / "scan.json")["pairs"][0], load_file(run / "suspects.safetensors")
    classifier = load_classifier(str(MODEL))
    images = open_images(SIGNS, image_shape=classifier.image_shape, classes=classifier.classes)
    trigger = {name.removeprefix("0.trigger."): t for name, t in tensors.items() if name.startswith("0.trigger.")}
    stamp = stamp_of(FAMILIES["patch"], trigger, next(classifier.parameters()).device)
    seen = attack_success(classifier, images, stamp, pair["target"], pair["victim"])
    assert pair["judged"]["success_rate"] == seen.success_rate
    assert pair["judged"]["images"] == seen.total == 40
    assert tensors["0.clean"].shape == tensors["0.stamped"].shape == (3, 3, 20, 20)
    assert not tensors["0.clean"].equal(tensors["0.stamped"])


def test_the_page(run: Path) -> None:
    page, record = (run / "report.html").read_text(), read(run / "scan.json")
    assert "backdoored" in page
    assert page.count("<li class=") == len(record["pairs"])
    assert page.count("data:image/png") == 6 * len(record["pairs"])  # sample, stamped, mask, difference, two more
    assert record["pairs"][0]["target_name"] in page
    told = re.search(r"<pre>orthogon (.*)</pre>", page)
    assert told is not None
    command = parse(shlex.split(told[1]))
    assert isinstance(command, Scan)
    assert command.settings == ("protocol=screen", "samples=8", "flagged_above=0.5")
    assert (command.scanner, command.models, command.images.data) == ("nc", (str(MODEL),), SIGNS)


def test_the_page_can_be_written_again(run: Path, command: Command) -> None:
    page = run / "report.html"
    before = page.read_text()
    page.unlink()
    code, out, err = command("report", run)
    assert (code, out.strip()) == (0, str(page)), err
    assert page.read_text() == before


def test_again_and_with_other_settings(run: Path, command: Command) -> None:
    before = (run / "scan.json").stat().st_mtime_ns
    words = (*NEURAL_CLEANSE, "--set", "flagged_above=0.5", "--out", run)
    code, out, err = command(*words)
    assert code == 10, err
    assert "finished already" in err
    assert "Verdict: backdoored" in out
    assert (run / "scan.json").stat().st_mtime_ns == before
    code, _, err = command(*words, "--draws", 2)
    assert code == 4
    assert "draws: 1 -> 2" in err
    code, out, _ = command(*words, "--sarif")
    assert code == 10
    finding = json.loads(out)["runs"][0]["results"][0]
    assert (finding["ruleId"], finding["level"]) == ("backdoored", "error")
    assert finding["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == MODEL.as_uri()


def test_without_images(command: Command) -> None:
    code, out, err = command(*MARGINS, "--model", MODEL, "--json", "--out", "run")
    record = json.loads(out)
    assert code == VERDICTS[record["verdict"]], err
    assert record["hashes"]["data"] is None
    assert record["report"] == "run/report.html"
    assert not Path("run/suspects.safetensors").exists()
    code, _, err = command("scan", "--model", MODEL, "--data", "", "--scanner", "nc")
    assert code == 2
    assert "nc has to see clean images: give --data" in err


def test_the_list(command: Command) -> None:
    code, out, _ = command("scan", "list", "--json")
    assert code == 0
    listed = json.loads(out)
    assert list(listed) == ["distance", "nc", "abs", "k-arm", "mm-bd", "ensemble"]
    assert [name for name, facts in listed.items() if not facts["needs_images"]] == ["mm-bd"]
    assert "Wang et al. 2019" in command("scan", "list")[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--data", SIGNS), "name a model"),
        (("--model", "nowhere.pt", "--data", SIGNS), "nowhere.pt"),
        (("--model", MODEL, "--data", SIGNS, "--draws", 0), "--draws must be at least 1"),
        (("--model", MODEL, "--data", SIGNS, "--timeout", 0), "--timeout must be above 0"),
        (("--model", MODEL, "--data", SIGNS, "--set", "size=3"), "is not one of distance's"),
    ],
)
def test_wrong_words(command: Command, words: tuple[object, ...], told: str) -> None:
    code, out, err = command("scan", *words)
    assert (code, out) == (2, "")
    assert told in err


def _made(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folders_of_models(tmp_path: Path) -> None:
    def models(folder: str) -> list[str]:
        found = named_models([str(tmp_path / folder)])
        assert not found.alone
        return [Path(model).relative_to(tmp_path).as_posix() for model in found.models]

    _made(tmp_path / "of", "a/model.pt", "b/model.safetensors", "b/model.json", "c/else.txt")
    _made(tmp_path / "flat", "x.pth", "y.pt", "z.bin", "UPPER.PT", "old.pth.tar", "notes.txt", "deep/model.ckpt", "deep/last.pt")
    assert models("of") == ["of/a/model.pt", "of/b/model.safetensors"]
    assert models("flat") == [f"flat/{name}" for name in ("UPPER.PT", "old.pth.tar", "x.pth", "y.pt", "z.bin", "deep/model.ckpt")]
    assert named_models([str(tmp_path / "flat")]).told() == f"not scanned: {tmp_path}/flat/deep/last.pt"
    _made(tmp_path / "of", "b/evil.pt", "d/e/model.pt", "f/model.pth.tar")
    assert models("of") == ["of/a/model.pt", "of/b/model.safetensors", "of/f/model.pth.tar"]
    assert named_models([str(tmp_path / "of")]).passed == (f"{tmp_path}/of/b/evil.pt", f"{tmp_path}/of/d/e/model.pt")
    with pytest.raises(ValueError, match="has no checkpoint"):
        models("of/c")
    assert (short_name("id-00000003/model.pt"), short_name("nets/suspect.pt")) == ("id-00000003", "suspect")


def test_a_model_and_its_own_folder_are_meant_alone(tmp_path: Path) -> None:
    _made(tmp_path, "model.safetensors", "trigger.safetensors")
    found = named_models([str(tmp_path)])
    assert (found.models, found.alone) == ((str(tmp_path / "model.safetensors"),), True)
    assert found.passed == (str(tmp_path / "trigger.safetensors"),), "a trigger is no model, which is said"
    assert named_models(["timm:resnet18"]) == Named(("timm:resnet18",), alone=True)
    _made(tmp_path, "model.PTH", "below/model.pt")
    found = named_models([str(tmp_path)])
    assert (len(found.models), found.alone) == (2, False)
    assert str(tmp_path / "below/model.pt") in found.passed


def test_a_bad_model_stops_no_other_and_nothing_is_done_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process per model: one good, one corrupt; then again, when only the one without a verdict is started."""
    (tmp_path / "bad.pt").write_bytes(b"\x80\x02not a pickle of a model")
    (tmp_path / "random.py").write_text("open('code-was-run', 'w').close()")  # which no process may take for Python's own
    words = (*MARGINS, "--model", MODEL, tmp_path / "bad.pt", "--jobs", 2, "--out", "fleet")
    code, out, err = command(*words, "--json")
    rows = {Path(row["model"]).name: row for row in json.loads(out)["models"]}
    good, bad = rows["model.safetensors"], rows["bad.pt"]
    assert good["outcome"] in VERDICTS, err
    assert good["hashes"]["model"] == runs.digest(MODEL)
    assert bad["outcome"] == "cannot be scanned"
    assert "bad.pt" in bad["reasons"][0]
    assert code == (10 if good["outcome"] == "backdoored" else 12)
    page = Path("fleet/report.html").read_text()
    assert f'href="models/{Path(good["folder"]).name}/report.html"' in page
    assert "bad.pt" in page
    assert not Path("code-was-run").exists()
    record = Path(good["folder"]) / "scan.json"
    before = record.stat().st_mtime_ns
    started: list[Job] = []

    def seen(jobs: Iterator[Job], *others: Any) -> Any:
        return run_here((started.append(job) or job for job in jobs), *others)

    monkeypatch.setattr(scanning_fleet, "CHILD", "import sys; print(sys.argv, file=sys.stderr); sys.exit(2)")
    monkeypatch.setattr(scanning_fleet, "run_here", seen)
    again = {Path(row["model"]).name: row["outcome"] for row in json.loads(command(*words, "--json")[1])["models"]}
    assert again == {"model.safetensors": good["outcome"], "bad.pt": "cannot be scanned"}
    assert [job.folder.name.partition("-")[0] for job in started] == ["bad"]
    assert record.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("child", "outcome", "told", "attempts"),
    [
        ("import time; time.sleep(60)", "timed out", "not finished after 0.5 seconds", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "ran out of memory", 2),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "crashed", "signal 6", 2),
        ("import sys; print('orthogon scan: near', file=sys.stderr); sys.exit(3)", "near chance", "near", 1),
        ("import sys; print('no memory', file=sys.stderr); sys.exit(5)", "out of memory or disk", "no memory", 2),
        ("raise ZeroDivisionError('odd')", "crashed", "ZeroDivisionError: odd", 2),
        ("pass", "crashed", "exit code 0", 1),
    ],
)
def test_what_can_become_of_a_process(
    command: Command, monkeypatch: pytest.MonkeyPatch, child: str, outcome: str, told: str, attempts: int
) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", child)
    timeout = 0.5 if outcome == "timed out" else 30
    words = (*MARGINS, "--model", "a.pt", "b.pt", "--jobs", 2, "--timeout", timeout, "--out", "fleet", "--json")
    code, out, _ = command(*words)
    assert code == 12
    for row in json.loads(out)["models"]:
        assert row["outcome"] == outcome
        assert told in row["reasons"][0]
        assert row["attempts"] == attempts


def test_an_interrupted_command_leaves_no_process_behind(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(row: dict[str, Any]) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(scanning_fleet, "CHILD", "import sys, time; time.sleep(90 if 'b.pt' in sys.argv else 0)")
    monkeypatch.setattr(scanning_fleet, "_because", interrupt)
    began = time.monotonic()
    code, _, err = command(*MARGINS, "--model", "a.pt", "b.pt", "--jobs", 2, "--out", "fleet")
    assert code == 130
    assert "go on with" in err
    assert time.monotonic() - began < 60


REFUSED = "import sys; open('starts', 'a').write(sys.argv[sys.argv.index('--model') + 1][0]); sys.exit(2)"


def test_failures_are_kept_until_a_command_has_finished_and_then_tried_again(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: object, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)
    words = (*MARGINS, "--model", "a.pt", "b.pt", "--jobs", 1, "--out", "fleet", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning_fleet._Fleet, "_say", interrupt)
        assert command(*words)[0] == 130
    assert Path("starts").read_text()[0] == "a"
    assert not Path("fleet/scans.json").exists()
    Path("starts").unlink()
    code, out, _ = command(*words)
    assert code == 12
    assert [row["outcome"] for row in json.loads(out)["models"]] == ["cannot be scanned"] * 2
    assert Path("starts").read_text() == "b"
    command(*words)
    assert Path("starts").read_text() == "bab"


def test_more_models_go_into_the_same_folder(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that grows is scanned again and again."""
    verdict = {"verdict": "clean", "pairs": [], "reasons": [], "score": 0.5, "seconds": 1.0}
    program = "import json, pathlib, sys; place = pathlib.Path(sys.argv[-1]); place.mkdir(exist_ok=True); "
    page = "(place / 'report.html').touch(); open('starts', 'a').write('x')"
    monkeypatch.setattr(scanning_fleet, "CHILD", f"{program} (place / 'scan.json').write_text(json.dumps({verdict!r})); {page}")
    words = (*MARGINS, "--jobs", 1, "--out", "fleet", "--json")
    code, out, _ = command(*words, "a.pt", "b.pt")
    assert (code, json.loads(out)["counts"]) == (0, {"clean": 2})
    code, out, _ = command(*words, "a.pt", "b.pt", "c.pt")
    assert (code, json.loads(out)["counts"]) == (0, {"clean": 3})
    assert len(Path("starts").read_text()) == 3
    events = [event["model"] for event in runs.read_events(Path("fleet")) if event["kind"] == "model"]
    assert events == ["a.pt", "b.pt", "c.pt"]
    (Path(json.loads(out)["models"][1]["folder"]) / "report.html").unlink()  # as where the process was killed between the two
    assert command(*words, "a.pt", "b.pt", "c.pt")[0] == 0
    assert len(Path("starts").read_text()) == 4


def test_a_changed_file_or_card_is_another_scan(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)

    def folder() -> str:
        return json.loads(command(*MARGINS, "a.pt", "b.pt", "--jobs", 1, "--out", "fleet", "--json")[1])["models"][0]["folder"]

    seen = [folder()]
    for name, content in (("a.pt", "weights"), ("a.json", "{}"), ("a.pt", "others")):
        Path(name).write_text(content)
        seen.append(folder())
    assert len(set(seen)) == 4


def test_another_input_is_another_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a verdict depends on, in turn; what is the same gives the same."""
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []

    def look(*words: str, scanner: str = "nc") -> None:
        parsed = parse(["scan", "--model", "m/a.pt", "--scanner", scanner, *words])
        assert isinstance(parsed, Scan)
        seen.append(json.dumps(scanning_inputs.Inputs(parsed, named(SCANNERS, "scanner", scanner)).of("m/a.pt"), sort_keys=True))

    def write(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(content)

    write("m/a.pt", "weights")
    look()
    for name in ("m/a.json", "m/clean_example_data/class_0_example_0.png", "m/config.json"):
        write(name, "1")
        look()
    for name in ("images/0/a.png", "images/0/b.png", "images/0/b.png"):
        write(name, f"{len(seen)}{name}" * len(seen))
        look("--data", "images")
    for spec, name in (("set.npz", "set.npz"), ("hf:set.npz", "set.npz")):
        write(name, spec)
        look("--data", spec)
    for words, name in ((("--arch", "nets.py:make"), "nets.py"), (("--normalization", "card.json"), "card.json")):
        for content in "12":
            write(name, content)
            look(*words)
    calibration = Calibration("nc", {}, 0.0, {}, {}, {})
    monkeypatch.setattr(scanning_inputs, "shipped", lambda *_: calibration)
    look("--normalization", "card.json")
    assert len(set(seen)) == len(seen) == 14
    look("--normalization", "card.json")
    assert seen[-1] == seen[-2]


def test_a_folder_whose_files_are_no_utf8_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    assert len(scanning_inputs.folder_digest(tmp_path)) == 64


def test_images_behind_a_link_count_in_the_digest(tmp_path: Path) -> None:
    _made(tmp_path, "elsewhere/a.png", "images/train/dog/b.png")
    (tmp_path / "images/train/cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/train/back").symlink_to(tmp_path / "images")
    before = scanning_inputs.folder_digest(tmp_path / "images")
    assert scanning_inputs.folder_digest(tmp_path / "images") == before
    (tmp_path / "elsewhere/a.png").write_text("changed")
    assert scanning_inputs.folder_digest(tmp_path / "images") != before


def test_odd_names_stop_no_other_model(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)
    names = [os.fsdecode(b"bad\xff.pt"), "n" * 217 + ".pt", "\u4e2d" * 80 + ".pt", "null\0.pt", "good.pt"]
    code, out, err = command(*MARGINS, *names, "--jobs", 1, "--out", "fleet", "--json")
    assert code == 12, err
    rows = json.loads(out)["models"]
    assert [row["outcome"] for row in rows] == [*["cannot be scanned"] * 3, "cannot be started", "cannot be scanned"]
    assert rows[0]["model"] == "bad\\udcff.pt"
    assert all(len(os.fsencode(Path(row["folder"]).name)) <= 120 for row in rows)


@pytest.mark.parametrize("words", [("--timeout", 9), ("--retries", 0), ("--force",)])
def test_a_failure_on_other_terms_is_tried_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...]
) -> None:
    def interrupt(self: object, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)
    given = (*MARGINS, "a.pt", "b.pt", "--jobs", 1, "--out", "fleet", "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning_fleet._Fleet, "_say", interrupt)
        assert command(*given)[0] == 130
    Path("starts").unlink()
    assert command(*given, *words)[0] == 12
    assert Path("starts").read_text() == "ab"


def test_what_a_shell_makes_of_a_folder(tmp_path: Path) -> None:
    _made(tmp_path, "a.pt", "a.json", "SHA256SUMS", "run/model.pt", "run/trigger.safetensors", "empty/notes.txt")
    asked = [f"{tmp_path}/{name}" for name in ("SHA256SUMS", "a.json", "a.pt", "empty", "nowhere.pt", "run")]
    found = named_models([*asked, f"{tmp_path}/run/model.pt"])
    here = [[Path(path).relative_to(tmp_path).as_posix() for path in paths] for paths in (found.models, found.passed)]
    assert here == [["a.pt", "nowhere.pt", "run/model.pt"], ["SHA256SUMS", "empty", "run/trigger.safetensors"]]
    assert not found.alone


def test_a_model_is_scanned_once_however_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _made(tmp_path, "dl/model.bin", "dl/evil.pt")
    found = named_models(["./dl", "./dl/model.bin", "./dl/evil.pt"])
    assert (found.models, found.passed) == (("./dl/model.bin", "./dl/evil.pt"), ())


def test_a_folder_that_cannot_be_read_is_left_to_its_own_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _made(tmp_path, "a/model.pt", "lost+found/model.pt")
    real, walk = Path.iterdir, os.walk

    def refused(self: Path) -> Iterator[Path]:
        if self.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    def walked(top: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        if top.name != "lost+found":
            return walk(top)
        onerror(PermissionError(13, "Permission denied", str(top)))
        return iter(())

    monkeypatch.setattr(Path, "iterdir", refused)
    monkeypatch.setattr(os, "walk", walked)
    words = [str(tmp_path / name) for name in ("a", "lost+found")]
    assert named_models(words).models == (f"{words[0]}/model.pt", words[1])
    assert named_models([str(tmp_path)]).models == (f"{words[0]}/model.pt", f"{words[1]}/model.safetensors")


def test_what_is_no_model_beside_others_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)
    for name in ("a.pt", "b.pt", "notes.txt"):
        Path(name).touch()
    _, out, err = command(*MARGINS, "a.pt", "b.pt", "notes.txt", "--jobs", 1, "--out", "fleet", "--json")
    assert json.loads(out)["not_scanned"] == ["notes.txt"]
    assert "not scanned: notes.txt" in err


def test_a_file_that_is_too_large_to_be_hashed_is_told_and_stops_no_other(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", REFUSED)
    monkeypatch.setattr(scanning_inputs, "_LARGEST_GIB", 1)
    with Path("huge.pt").open("wb") as file:
        file.truncate(3 * 2**30)
    Path("b.pt").touch()
    _, out, _ = command(*MARGINS, "huge.pt", "b.pt", "--jobs", 1, "--out", "fleet", "--json")
    rows = json.loads(out)["models"]
    assert [row["outcome"] for row in rows] == ["cannot be read", "cannot be scanned"]
    assert rows[0]["reasons"] == ["huge.pt has 3 GiB, and no file of more than 1 is looked at"]


class _Endless(torch.nn.Module):
    """As TorchScript, it is never loaded to the end, and lets no other thread of Python's run meanwhile."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        count = 0
        while count < 1:
            count *= state[0]
        self.training = state[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_single_scan_ends_at_its_time_limit(command: Command) -> None:
    torch.jit.script(_Endless()).save("endless.pt")
    began = time.monotonic()
    code, out, err = command("scan", "--model", "endless.pt", "--data", SIGNS, "--timeout", 6, "--json")
    assert (code, out) == (12, "")
    assert "endless.pt: not finished after 6 seconds" in err
    assert time.monotonic() - began < 30


def test_a_scan_within_its_time_limit_is_that_without_one(tmp_path: Path) -> None:
    words = [*map(str, MARGINS), "--model", str(MODEL.parent), "--json", "--out", "run"]
    told = [
        subprocess.run([sys.executable, "-m", "orthogon", *words, *limit], capture_output=True, check=False, cwd=tmp_path)
        for limit in ((), ("--timeout", "600"))
    ]
    assert told[0].returncode == told[1].returncode != 2
    assert json.loads(told[0].stdout) == json.loads(told[1].stdout)
    assert json.loads(told[1].stdout)["not_scanned"] == [str(MODEL.parent / "trigger.safetensors")]
    assert told[1].stderr.count(b"not scanned: ") == 1


def test_names_in_a_strangers_file_command_no_terminal(command: Command) -> None:
    save_file({"\x1b[2J\x1b]0;owned\x07": torch.zeros(2)}, "odd.safetensors")
    code, _, err = command("scan", "--model", "odd.safetensors", "--arch", "resnet20", "--data", SIGNS)
    assert code == 2
    assert "\x1b" not in err
    assert "\\x1b[2J" in err


class _NoGradient(torch.nn.Module):
    """Finite logits, whose gradient is not."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images) + (0 * images.square().sum()).sqrt()


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:Converting a tensor")
def test_a_model_whose_gradients_are_no_numbers_gets_a_verdict(command: Command) -> None:
    classifier = load_classifier(str(MODEL))
    images = torch.rand(2, *classifier.image_shape)
    torch.jit.trace(_NoGradient(classifier).eval(), images).save("odd.pt")
    facts = {"classes": list(classifier.classes), "image_shape": list(classifier.image_shape), "normalization": None}
    Path("odd.json").write_text(json.dumps(facts))
    words = ("--set", "families=patch", "--set", "samples=5", "--set", "pairs_per_class=1", "--set", "again=1", "--json")
    code, out, err = command("scan", "--model", "odd.pt", "--data", SIGNS, *words)
    assert code == 11, err
    assert any("not finite" in reason for reason in json.loads(out)["reasons"])
    assert json.loads(out)["not_scanned"] == []


@pytest.mark.parametrize(("option", "value"), [("--jobs", 0), ("--retries", -1)])
def test_wrong_numbers_for_a_fleet(command: Command, option: str, value: int) -> None:
    code, _, err = command(*MARGINS, "a.pt", "b.pt", f"{option}={value}")
    assert code == 2
    assert f"{option} must be at least" in err


def test_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def many(*words: str) -> int | None:
        parsed = parse(["scan", "--data", "signs", "a.pt", *words])
        assert isinstance(parsed, Scan)
        return scanning_fleet.at_once(parsed)

    monkeypatch.setattr(scanning_fleet, "cores", lambda: 6)
    monkeypatch.setattr(scanning_fleet, "free_gib", lambda device: 9.0)
    assert many("--jobs", "3", "--device", "cpu") == 3
    assert many("--device", "cpu") == 4  # of 2 GiB each
    monkeypatch.setattr(scanning_fleet, "free_gib", lambda device: 0.5)
    assert many("--device", "cpu") == 1
    assert many("--ray", "auto") is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert scanning_fleet.gpus("auto") == ("0", "1", "2")
    assert many() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert scanning_fleet.gpus("cuda") == ("4", "7")
    assert scanning_fleet.gpus("cpu") == ()


def test_a_lost_machine_is_an_outcome(tmp_path: Path) -> None:
    lost = scanning_fleet.Ended("lost", said="the node died", attempts=6)
    row = scanning_fleet._row("a.pt", scanning_fleet.Job((), tmp_path / "a", "scan.json"), lost, 5.0)
    assert (row["outcome"], row["reasons"], row["attempts"]) == ("lost", ["the node died"], 6)


def test_the_exit_code_of_many() -> None:
    def code(*outcomes: str) -> int:
        return scanning_fleet.code_of([{"outcome": outcome} for outcome in outcomes])

    assert code("clean", "clean") == 0
    assert code("clean", "inconclusive") == 11
    assert code("inconclusive", "timed out") == 12
    assert code("timed out", "backdoored", "clean") == 10


def test_for_people(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning_fleet, "CHILD", "import sys; print('the file is damaged', file=sys.stderr); sys.exit(2)")
    code, out, err = command(*MARGINS, "a.pt", "b.pt", "--out", "fleet")
    assert code == 12
    assert "2 cannot be scanned" in out
    assert "a.pt: cannot be scanned (the file is damaged)" in err
    code, out, _ = command(*MARGINS, "a.pt", "b.pt", "--out", "fleet", "--sarif")
    assert [finding["ruleId"] for finding in json.loads(out)["runs"][0]["results"]] == ["not-scanned"] * 2


def test_the_calibrations_of_an_ensembles_members_are_inputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its score changes its meaning where they come or change."""
    scores = [{"score": score} for score in (0.0, 1.0, 3.0, 4.0)]
    curve = fit("nc", settings_of(NeuralCleanse()), scores, [False, False, True, True])
    monkeypatch.setattr(scanning_inputs, "shipped", lambda name, settings: curve if name == "nc" else None)
    assert calibration_facts(Ensemble(("nc", "mm-bd"))) == {"nc": curve.to_json()} == calibration_facts(NeuralCleanse())
    assert calibration_facts(MMBD()) == {}
