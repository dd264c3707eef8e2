from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orthogon import runs
from orthogon.runs import DiskFull, OtherSettings, Run, RunError, RunInUse

SETTINGS = {"model": "net.safetensors", "pairs": "all", "seed": 0, "protocol": {"samples": 100}}


def python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_a_new_run_records_what_it_is(tmp_path: Path) -> None:
    with Run.open(tmp_path / "a" / "b", "measure", SETTINGS) as run:
        assert not run.resumed
    record = json.loads(run.path("settings.json").read_text())
    assert record["command"] == "measure"
    assert record["settings"] == SETTINGS
    assert record["versions"]["torch"] == torch.__version__
    assert set(record["versions"]) == {"orthogon", "torch", "torchvision", "python", "platform", "cpu", "gpu"}
    assert record["started"].endswith("+00:00")


def test_the_same_settings_go_on_and_events_add_up(tmp_path: Path) -> None:
    with Run.open(tmp_path, "measure", SETTINGS) as run:
        run.event("pair", victim=0, target=1, seconds=1.5)
    with Run.open(tmp_path, "measure", SETTINGS) as run:
        assert run.resumed
    kinds = [event["kind"] for event in runs.read_events(tmp_path)]
    assert kinds == ["started", "pair", "resumed"]


def test_a_run_that_other_versions_go_on_with_tells_what_moved(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", SETTINGS).close()
    record = runs.read_json(tmp_path / "settings.json")
    record["versions"] |= {"torch": "1.13", "gpu": "another"}
    del record["versions"]["cpu"]  # what an older version did not tell has not moved
    runs.write_json(tmp_path / "settings.json", record)
    with Run.open(tmp_path, "measure", SETTINGS) as run:
        now = runs.versions()
        assert run.moved == (f'torch: "1.13" -> "{now["torch"]}"', f'gpu: "another" -> "{now["gpu"]}"')
    assert runs.read_events(tmp_path)[-1]["versions"] == now


def test_files_are_utf_8_whatever_the_system_writes(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", {"data": "Vögel/ночь"}).close()
    code = """
        import sys
        from pathlib import Path
        from orthogon import runs
        folder = Path(sys.argv[1])
        with runs.Run.open(folder, "measure", {"data": "V\\xf6gel/\\u043d\\u043e\\u0447\\u044c"}) as run:
            assert run.resumed
            run.event("pair", name="V\\xf6gel\\u2028")
        assert [event["kind"] for event in runs.read_events(folder)] == ["started", "resumed", "pair"]
        """
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], env=os.environ | plain, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(("content", "reason"), [("{", "is not JSON"), ("[1]", "it holds a list"), (b"\xff", "is not JSON")])
def test_what_is_no_json_object_is_told(tmp_path: Path, content: str | bytes, reason: str) -> None:
    (tmp_path / "x.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=rf"x\.json .*{reason}"):
        runs.read_json(tmp_path / "x.json")


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", SETTINGS).close()
    other = SETTINGS | {"pairs": "0-1", "protocol": {"samples": 50}, "force": True}
    with pytest.raises(OtherSettings) as caught:
        Run.open(tmp_path, "measure", other)
    message = str(caught.value)
    assert 'pairs: "all" -> "0-1"' in message
    assert "protocol.samples: 100 -> 50" in message
    assert "force: null -> true" in message
    assert "seed" not in message
    with pytest.raises(OtherSettings, match='command: "measure" -> "train"'):
        Run.open(tmp_path, "train", SETTINGS)
    Run.open(tmp_path, "measure", SETTINGS).close()  # a refusal leaves no lock behind


def test_inputs_that_changed_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", SETTINGS, inputs={"model": "aa", "data": "bb"}).close()
    assert json.loads((tmp_path / "settings.json").read_text())["inputs"] == {"model": "aa", "data": "bb"}
    with pytest.raises(OtherSettings, match=r'inputs\.model: "aa" -> "cc"'):
        Run.open(tmp_path, "measure", SETTINGS, inputs={"model": "cc", "data": "bb"})


def test_a_fresh_run_keeps_the_old_one_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in range(3):
        with Run.open(folder, "measure", SETTINGS | {"seed": number}, fresh=True) as run:
            assert not run.resumed
    seeds = {p.name: json.loads((p / "settings.json").read_text())["settings"]["seed"] for p in tmp_path.iterdir()}
    assert seeds == {"run": 2, "run.old-1": 0, "run.old-2": 1}


def test_a_folder_with_somebody_elses_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"editor": "vim"}')
    with pytest.raises(RunError, match="not the settings of a run"):
        Run.open(tmp_path, "measure", SETTINGS)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(RunError, match="cannot read"):
        Run.open(tmp_path, "measure", SETTINGS)


def test_two_processes_cannot_write_one_run_but_a_killed_one_is_no_obstacle(tmp_path: Path) -> None:
    holder = python(
        """
        import fcntl, sys, time
        file = open(sys.argv[1] + "/.lock", "ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(60)
        """,
        tmp_path,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunInUse, match="another process"):
        Run.open(tmp_path, "measure", SETTINGS)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    Run.open(tmp_path, "measure", SETTINGS).close()


def test_kill_in_the_middle_of_a_write_leaves_the_old_file_and_the_next_open_tidies(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", SETTINGS).close()
    path = tmp_path / "distances.json"
    runs.write_json(path, {"values": [1]})
    writer = python(
        """
        import os, signal, sys
        from pathlib import Path
        from orthogon import runs
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
        runs.write_json(Path(sys.argv[1]), {"values": [2]})
        """,
        path,
    )
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert json.loads(path.read_text()) == {"values": [1]}
    assert list(tmp_path.glob(".*.partial"))
    Run.open(tmp_path, "measure", SETTINGS).close()
    assert not list(tmp_path.glob(".*.partial"))


def test_half_an_event_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    Run.open(tmp_path, "measure", SETTINGS).close()
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"kind": "pai')
    Run.open(tmp_path, "measure", SETTINGS).close()
    assert [event["kind"] for event in runs.read_events(tmp_path)] == ["started", "resumed"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "Input/output"),
    ],
)
def test_a_failed_write_is_explained_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "x.json"
    runs.write_json(path, 1)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=words) as raised:
        runs.write_json(path, 2)
    assert isinstance(raised.value, DiskFull) == (number == errno.ENOSPC)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "1\n"


def test_a_really_full_disk_and_a_really_wrong_place() -> None:
    if Path("/dev/full").exists():
        with pytest.raises(RunError, match="cannot write"):
            Run.open(Path("/dev/full/run"), "measure", SETTINGS)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="file"):
            Run.open(folder, "measure", SETTINGS)


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "x.json", [math.nan])
    assert not list(tmp_path.iterdir())


def test_tensors_of_any_layout_are_written_with_their_metadata(tmp_path: Path) -> None:
    square = torch.arange(12.0).view(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    runs.write_tensors(tmp_path / "x.safetensors", {"a": square, "b": square, "c": square.mT[0]}, {"k": "v"})
    read = load_file(tmp_path / "x.safetensors")
    assert torch.equal(read["a"], square)
    assert torch.equal(read["c"], square.mT[0])


def test_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert runs.digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_settings_digest_ignores_the_order() -> None:
    assert runs.settings_digest({"a": 1, "b": 2}) == runs.settings_digest({"b": 2, "a": 1})
    assert runs.settings_digest({"a": 1}) != runs.settings_digest({"a": 2})
