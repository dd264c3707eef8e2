"""Real processes: small Python programs in the place of scans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from orthogon.fleet import Ended, Job, Terms, run_here
from orthogon.fleet.children import Children
from orthogon.machine import cores

WRITE = "import pathlib, sys; place = pathlib.Path(sys.argv[-1]); place.mkdir(); (place / 'done').write_text('{told}')"
TERMS = Terms(timeout=30.0, retries=0, settled=frozenset({0, 2}))


def job(folder: Path, program: str, name: str = "a") -> Job:
    return Job(("-c", program), folder / name, "done")


def ended(*jobs: Job, terms: Terms = TERMS, at_once: int = 1, gpus: tuple[str, ...] = ()) -> dict[str, Ended]:
    return {job.folder.name: how for job, how in run_here(iter(jobs), terms, at_once, gpus)}


def counting(folder: Path, program: str) -> str:
    """The program, after it has told that it was started."""
    return f"open({str(folder / 'starts')!r}, 'a').write('x'); {program}"


def test_each_job_is_done_once_in_a_folder_of_its_own(tmp_path: Path) -> None:
    jobs = [job(tmp_path, counting(tmp_path, WRITE.format(told=name)), name) for name in "abcde"]
    found = ended(*jobs, at_once=2)
    assert sorted(found) == list("abcde")
    assert all((how.how, how.code, how.attempts) == ("exited", 0, 1) for how in found.values())
    assert [(tmp_path / name / "done").read_text() for name in "abcde"] == list("abcde")
    assert (tmp_path / "starts").read_text() == "xxxxx"
    assert all(job.done for job in jobs)


@pytest.mark.parametrize(
    ("program", "code", "starts"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, 3),
        ("raise ZeroDivisionError('odd')", 1, 3),
        ("import sys; sys.exit(2)", 2, 1),
        ("", 0, 1),
    ],
)
def test_what_may_end_otherwise_is_tried_again_and_a_refusal_is_not(tmp_path: Path, program: str, code: int, starts: int) -> None:
    found = ended(job(tmp_path, counting(tmp_path, program)), terms=Terms(30.0, 2, TERMS.settled))["a"]
    assert (found.how, found.code, found.attempts) == ("exited", code, starts)
    assert (tmp_path / "starts").read_text() == starts * "x"


def test_a_second_attempt_can_succeed(tmp_path: Path) -> None:
    first = f"import os, pathlib\nif not pathlib.Path({str(tmp_path / 'tried')!r}).exists():\n"
    first += f" open({str(tmp_path / 'tried')!r}, 'w'); os.abort()\n"
    found = ended(job(tmp_path, first + WRITE.format(told="late")), terms=Terms(30.0, 1, TERMS.settled))["a"]
    assert (found.code, found.attempts) == (0, 2)
    assert (tmp_path / "a/done").read_text() == "late"


def test_a_job_that_hangs_is_ended_with_what_it_started_and_not_tried_again(tmp_path: Path) -> None:
    nested = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {'import time; time.sleep(60)'!r}]);"
    pid = f"import os; open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpgrp()));"
    program = f"{pid} {nested} import time; print('busy', file=sys.stderr, flush=True); time.sleep(60)"
    found = ended(job(tmp_path, program), terms=Terms(1.5, 3, TERMS.settled))["a"]
    assert (found.how, found.said, found.attempts) == ("timed out", "busy", 1)
    group = int((tmp_path / "group").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(group):
        time.sleep(0.05)
    assert not alive(group)


def test_what_a_job_leaves_running_ends_with_it(tmp_path: Path) -> None:
    nested = f"subprocess.Popen([sys.executable, '-c', {'import time; time.sleep(60)'!r}])"
    program = f"import os, subprocess, sys; open({str(tmp_path / 'group')!r}, 'w').write(str(os.getpgrp())); {nested}"
    assert ended(job(tmp_path, program))["a"].code == 0
    deadline = time.monotonic() + 10
    while alive(int((tmp_path / "group").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(group: int) -> bool:
    """Whether a process of the group still runs; one that nobody has waited for yet does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False).stdout
    return any(not state.startswith("Z") for state in told.split())


def test_nothing_is_imported_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the job's process nor by those that it starts: the folder may be one of strangers' files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    Path("random.py").write_text("open('code-was-run', 'w').close()")
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import random'], check=True)"
    assert ended(job(tmp_path, f"import random; {nested}"))["a"].code == 0
    assert not Path("code-was-run").exists()


def test_a_job_that_cannot_be_started_stops_no_other(tmp_path: Path) -> None:
    long, null = job(tmp_path, "", "x" * 300), Job(("-c", "\0"), tmp_path / "null", "done")
    found = ended(long, null, job(tmp_path, WRITE.format(told="well")))
    assert [found[name].how for name in ("x" * 300, "null", "a")] == ["not started", "not started", "exited"]
    assert "too long" in found["x" * 300].said
    assert "null" in found["null"].said


def test_the_last_words_are_kept_and_no_more(tmp_path: Path) -> None:
    found = ended(job(tmp_path, "import sys; print('x' * 5000 + 'end', file=sys.stderr); sys.exit(2)"))["a"]
    assert found.said.endswith("xend")
    assert len(found.said) <= 2000
    assert len((tmp_path / "a.log").read_text()) == 5004


def test_every_place_has_a_gpu_of_its_own_and_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'], file=sys.stderr);"
    found = ended(*(job(tmp_path, seen + "time.sleep(1)", name) for name in "ab"), at_once=2, gpus=("3", "5"))
    share = max(1, cores() // 2)
    assert sorted(how.said for how in found.values()) == [f"3 {share}", f"5 {share}"]


def test_closing_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    jobs = [job(tmp_path, counting(tmp_path, f"import time; time.sleep({60 * number})"), str(number)) for number in range(4)]
    began = time.monotonic()
    with closing(run_here(iter(jobs), TERMS, 2)) as running:
        first, _ = next(running)
    assert first.folder.name == "0"
    assert time.monotonic() - began < 30
    assert len((tmp_path / "starts").read_text()) <= 3


def test_nothing_is_started_after_the_end(tmp_path: Path) -> None:
    children = Children()
    children.stop()
    assert children.run(job(tmp_path, "open('never', 'w')"), TERMS).how == "interrupted"


def test_jobs_are_taken_one_by_one(tmp_path: Path) -> None:
    taken: list[str] = []

    def jobs():
        for name in "abcd":
            taken.append(name)
            yield job(tmp_path, "", name)

    with closing(run_here(jobs(), TERMS, 1)) as running:
        next(running)
        assert taken == ["a", "b"]


def test_a_process_does_not_outlive_the_one_that_was_killed(tmp_path: Path) -> None:
    """kill -9 of the fleet leaves nothing behind that would write on."""
    told = tmp_path / "child"
    child = "from orthogon.fleet.guard import die_with_parent; die_with_parent(); import os, time; "
    child += f"open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = "from orthogon.fleet import Job, Terms, run_here; from pathlib import Path; import sys; "
    program += "list(run_here(iter([Job(('-c', sys.argv[1]), Path(sys.argv[2]) / 'a', 'done')]), Terms(60.0, 0, frozenset()), 1))"
    fleet = subprocess.Popen([sys.executable, "-c", program, child, str(tmp_path)])
    pid = int(appeared(told))
    os.kill(pid, 0)
    fleet.send_signal(signal.SIGKILL)
    fleet.wait()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def appeared(path: Path) -> str:
    """A file's text, once there is some."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"timeout": 0.0, "retries": 0}, "timeout must be above 0"),
        ({"timeout": float("inf"), "retries": 0}, "finite"),
        ({"timeout": 1.0, "retries": -1}, "retries must be at least 0, got -1"),
    ],
)
def test_wrong_terms(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Terms(wrong["timeout"], int(wrong["retries"]), frozenset())


def test_no_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        next(run_here(iter([]), TERMS, 0))
