from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from orthogon.cli import main, parse
from orthogon.cli import report as report_command
from orthogon.cli.demo import Demo
from orthogon.cli.subject import generator
from orthogon.runs import DiskFull

Command = Callable[..., tuple[int, str, str]]
COMMANDS = (
    *("demo", "measure", "evaluate", "train", "harden", "remove", "scan", "bench"),
    *("trojai", "poison", "stamp", "zoo", "compare", "report", "card"),
)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_tells_all_commands_and_exit_codes(command: Command, words: list[str]) -> None:
    code, out, err = command(*words)
    assert code == 0
    assert err == ""
    for name in (*COMMANDS, "130", "--json"):
        assert name in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"  orthogon {name}" in out
    assert "--json" in out


def test_help_does_not_wait_for_pytorch() -> None:
    code = f"""
import sys
from orthogon.cli import main
for words in [[], *([name, "--help"] for name in {COMMANDS!r})]:
    assert main(words) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version(command: Command) -> None:
    code, out, _ = command("--version")
    assert code == 0
    assert out.strip()[0].isdigit()


def test_the_package_runs_as_a_module() -> None:
    run = [sys.executable, "-m", "orthogon"]
    told = subprocess.run([*run, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == version("orthogon")
    wrong = subprocess.run([*run, "meazure"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "'meazure' is not a command" in wrong.stderr


def test_an_unknown_command_and_unknown_words(command: Command) -> None:
    code, out, err = command("meazure")
    assert (code, out) == (2, "")
    assert "'meazure' is not a command" in err
    code, out, _ = command("report")
    assert (code, out) == (2, "")
    code, out, err = command("evaluate", "--modle", "x")
    assert (code, out) == (2, "")
    assert "--model" in err


@pytest.mark.parametrize(
    ("line", "seed"),
    [
        ("measure --model m --data d", "99999999999999999999"),
        ("harden moth --model m --data d", str(2**63)),
        ("train --data d", "-1"),
        ("demo", "1.5"),
    ],
)
def test_a_seed_out_of_range_is_told(command: Command, line: str, seed: str) -> None:
    code, out, err = command(*line.split(), "--seed", seed)
    assert (code, out) == (2, "")
    assert "parsing --seed" in err
    assert f"got {seed}" in err


def test_the_largest_seed_is_one() -> None:
    parsed = parse(["demo", "--seed", str(2**63 - 1)])
    assert isinstance(parsed, Demo)
    generator(parsed.seed)


def test_ctrl_c_tells_how_to_go_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_command.Report, "run", interrupt)
    code, out, err = command("report", "my run")
    assert (code, out) == (130, "")
    assert "orthogon report 'my run'" in err


def test_ctrl_c_does_not_advise_to_begin_anew(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Demo, "run", interrupt)
    _, _, err = command("demo", "--fresh", "--seed", "3")
    assert "orthogon demo --seed 3" in err


def test_a_bug_keeps_its_traceback(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(report_command.Report, "run", bug)
    with pytest.raises(KeyError):
        command("report", "run")


@pytest.mark.parametrize("error", [MemoryError("no memory"), RuntimeError("DefaultCPUAllocator: not enough"), DiskFull("full")])
def test_what_another_attempt_may_mend_has_a_code_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(report_command.Report, "run", fail)
    code, out, err = command("report", "run")
    assert (code, out) == (5, "")
    assert str(error) in err


def test_debug_shows_where_bad_input_was_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORTHOGON_DEBUG", "1")
    with pytest.raises(ValueError, match=r"distances\.json"):
        main(["report", str(tmp_path)])


@pytest.mark.parametrize("words", [("report", "no-run"), ("card", "no-run"), ("compare", "no-run", "no-run")])
def test_a_folder_that_is_no_run(command: Command, words: tuple[str, ...]) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert "there is no folder no-run" in err
    Path("no-run").mkdir()
    assert "no-run has no distances.json" in command(*words)[2]
