"""A real Ray cluster of two nodes on this machine, one of which is killed; without Ray these are skipped."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orthogon.fleet import Ended, Job, Terms, ray_cluster, run_on_ray
from orthogon.fleet.ray_cluster import Brought, keep

TERMS = Terms(timeout=300.0, retries=1, settled=frozenset({0, 2}))
WAITING = (
    "import os, pathlib, sys, time; from orthogon.fleet.guard import die_with_parent; die_with_parent()\n"
    "place = pathlib.Path(sys.argv[-1]); pathlib.Path('started', f'{place.name}-{os.getpid()}').touch()\n"
    "while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
    "(place / 'part').mkdir(parents=True); (place / 'part/of').write_text('it'); (place / 'done').write_text(place.name)"
)
"""A job that does nothing before it may go on."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TQDM_PATCH_PRINT", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else 15, which takes minutes on a busy machine
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def test_a_killed_node_loses_nothing_and_doubles_nothing(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six jobs on three cores; the node that has two of them goes while all are busy, and its two jobs are done anew."""
    monkeypatch.chdir(tmp_path)
    Path("started").mkdir()
    mark = tmp_path / "code-was-run"
    Path("orthogon.py").write_text(f"open({str(mark)!r}, 'w').close()")  # which a worker would take for the package
    second = cluster.add_node(num_cpus=2)
    jobs = [Job(("-c", "import sys; print('no model', file=sys.stderr); sys.exit(2)"), tmp_path / "results/bad", "done")]
    jobs += [Job(("-c", WAITING), tmp_path / "results" / f"job{number}", "done") for number in range(6)]
    told: list[tuple[Job, Ended]] = []
    for job, ended in run_on_ray(iter(jobs), TERMS, cluster.address, 3, gpu=False):
        told.append((job, ended))
        if not Path("go").exists():
            until(lambda: len(started()) == 3)
            cluster.remove_node(second, allow_graceful=False)
            until(lambda: sum(map(runs, started())) == 1)  # what outlives its node for a moment may still answer
            Path("go").touch()
    assert Counter(job.folder.name for job, _ in told) == Counter(job.folder.name for job in jobs)
    how = {job.folder.name: ended for job, ended in told}
    bad = how.pop("bad")
    assert (bad.how, bad.code, bad.said, bad.attempts) == ("exited", 2, "no model", 1)
    assert all((ended.how, ended.code) == ("exited", 0) for ended in how.values())
    assert sorted(ended.attempts for ended in how.values()) == [1, 1, 1, 1, 2, 2]
    assert len(started()) == 8
    for job in jobs[1:]:
        assert (job.folder / "done").read_text() == job.folder.name
        assert (job.folder / "part/of").read_text() == "it"
    assert not jobs[0].folder.exists()
    assert not mark.exists()
    assert jobs[0].log.read_text().strip() == "no model"


def started() -> list[str]:
    """The processes that have begun, by their ids."""
    return [path.name.partition("-")[2] for path in Path("started").iterdir()]


def runs(process: str) -> bool:
    """Whether it still does; one that nobody has waited for yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def until(told: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_task_that_is_repeated_is_kept_once(tmp_path: Path) -> None:
    job = Job((), tmp_path / "a", "done")
    keep(job, Brought(Ended("exited"), {"part/of": b"1", "done": b"1"}, b"log"))
    keep(job, Brought(Ended("exited"), {"part/of": b"2", "done": b"2"}, b"other"))
    assert [(job.folder / name).read_text() for name in ("part/of", "done")] == ["1", "1"]
    assert job.log.read_text() == "log"


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet that is killed while it keeps a result must not take half of it for the whole."""
    from orthogon import runs as files

    order: list[str] = []
    monkeypatch.setattr(files, "write_bytes", lambda path, content: order.append(path.name))
    keep(Job((), tmp_path / "a", "done"), Brought(Ended("exited"), {"done": b"", "zebra": b"", "part/of": b""}, b""))
    assert order == ["a.log", "of", "zebra", "done"]


class AtOnce:
    """A cluster of machines without a disk in common, which Ray on one machine cannot be; tasks are done as one asks."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    def cluster_resources(self) -> dict[str, float]:
        return {}

    def remote(self, task: Callable[..., Brought]) -> AtOnce:
        self.task = task
        return self

    def options(self, **_: int) -> Any:
        class Handle:
            remote = staticmethod(lambda job, terms, working: (job, terms, self.answers.pop(0)))

        return Handle

    def wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> Brought:
        return self.task(*reference)


@pytest.mark.parametrize(("absent", "how", "attempts"), [(2, "exited", 3), (9, "lost", 6)])
def test_a_machine_without_the_folder_drains_no_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: int, how: str, attempts: int
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_cluster, "_PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)  # which a task changes
    cluster = ray_cluster._Cluster(AtOnce(*absent * [str(tmp_path / "absent")], str(tmp_path)), TERMS, gpu=False)
    began = time.monotonic()
    ((_, ended),) = cluster.ended(iter([Job(("-c", ""), tmp_path / "a", "done")]), 1)
    assert (ended.how, ended.attempts) == (how, attempts)
    assert time.monotonic() - began >= 0.01 * (attempts - (how == "exited"))


def test_a_machine_without_the_folder_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orthogon.fleet.ray_cluster import run_there

    monkeypatch.setattr(ray_cluster, "_PAUSE", 0.0)
    brought = run_there(Job((), tmp_path / "a", "done"), TERMS, str(tmp_path / "absent"))
    assert brought.ended.how == "lost"
    assert "on a disk that all machines of the cluster see" in brought.ended.said


def test_without_ray_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'orthogon\[ray\]'"):
        next(run_on_ray(iter([]), TERMS, "local", 1, gpu=False))
