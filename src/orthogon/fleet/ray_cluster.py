"""Jobs on a Ray cluster: each the same process as on this machine; its files come back, and this process alone keeps them.

A job is a Ray task that Ray itself never repeats. Ray repeats without end what its memory monitor has ended, so that a model
which no machine can hold would be tried for ever; here a lost task is handed out anew a few times, and then that is its outcome.
Whatever runs twice, because its machine fell silent and the answer came too late, is kept once: a job's folder is its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from orthogon.fleet.children import Children
from orthogon.fleet.job import Ended, Job, Terms

_IN_FLIGHT = 500
"""Tasks that wait at the cluster at most, where nobody says how many: enough for every core, and quick to look through."""
_LOST = 5
"""How often a job whose machine was lost is handed out anew."""
_PAUSE = 5.0
"""Seconds for which a machine that cannot do jobs keeps its core: others take them meanwhile, and it does not drain the queue."""


@dataclass(frozen=True)
class Brought:
    """What a task hands back."""

    ended: Ended
    files: dict[str, bytes]
    """Of its folder, by their relative POSIX paths."""
    log: bytes


def run_on_ray(
    jobs: Iterator[Job], terms: Terms, address: str, at_once: int | None, gpu: bool
) -> Generator[tuple[Job, Ended], None, None]:
    """Do the jobs on a cluster and tell how each ended; closing the iterator ends what still runs.

    Each task takes one core and, where asked, one GPU. The machines must have this package, and see this process's working folder
    under the same path: models and images are read from there.

    Args:
        jobs: taken one by one.
        terms: for each.
        address: "local" for a cluster on this machine alone, "auto" for the one that runs here, "HOST:6379", "ray://HOST:10001".
        at_once: tasks; None for as many as the cluster has room for.
        gpu: each task takes a GPU, where the cluster has any.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    ray = _ray()
    mine = not ray.is_initialized()
    if mine:
        with contextlib.chdir(sys.prefix):  # Ray's workers import from the folder that this is called in
            ray.init(address=address, log_to_driver=False, logging_level="warning")
    try:
        yield from _Cluster(ray, terms, gpu).ended(jobs, at_once or _IN_FLIGHT)
    finally:
        if mine:
            ray.shutdown()


def run_there(job: Job, terms: Terms, working: str) -> Brought:
    """The task: do the job in a folder of this machine's own, and bring its files."""
    if not Path(working).is_dir():
        time.sleep(_PAUSE)
        said = (
            f"this machine has no folder {working}: models and images have to lie on a disk that all machines of the cluster see"
        )
        return Brought(Ended("lost", said=said, node=platform.node()), {}, b"")
    os.chdir(working)
    with tempfile.TemporaryDirectory(prefix="orthogon-") as place:
        there = replace(job, folder=Path(place) / job.folder.name)
        ended = Children().run(there, terms)
        files = {path.relative_to(there.folder).as_posix(): path.read_bytes() for path in _kept(there.folder)}
        return Brought(ended, files if there.done else {}, there.log.read_bytes() if there.log.exists() else b"")


class _Cluster:
    """The tasks under way."""

    def __init__(self, ray: Any, terms: Terms, gpu: bool) -> None:
        gpus = 1 if gpu and ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self._ray, self._terms = ray, terms
        self._task = ray.remote(run_there).options(num_cpus=1, num_gpus=gpus, max_retries=0)
        self._running: dict[Any, tuple[Job, int]] = {}

    def ended(self, jobs: Iterator[Job], at_once: int) -> Generator[tuple[Job, Ended], None, None]:
        try:
            self._start(islice(jobs, at_once))
            while self._running:
                (reference,), _ = self._ray.wait(list(self._running))
                job, losses = self._running.pop(reference)
                ended = self._kept(reference, job, losses)
                if ended is None:
                    self._start([job], losses + 1)
                    continue
                self._start(islice(jobs, 1))
                yield job, ended
        finally:
            for reference in self._running:
                self._ray.cancel(reference, force=True)

    def _start(self, jobs: Any, losses: int = 0) -> None:
        for job in jobs:
            self._running[self._task.remote(job, self._terms, str(Path.cwd()))] = job, losses

    def _kept(self, reference: Any, job: Job, losses: int) -> Ended | None:
        """How the job ended, its files being where they belong; None where it has to be done anew."""
        try:
            brought: Brought = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            errors = self._ray.exceptions
            enough = self._terms.retries if isinstance(error, errors.OutOfMemoryError) else _LOST
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = lines[-1 if isinstance(error, errors.RayTaskError) else 0]  # a task's own error ends a traceback
            return None if losses < enough else Ended("lost", said=reason, attempts=losses + 1)
        if brought.ended.how == "lost" and losses < _LOST:
            return None
        keep(job, brought)
        return replace(brought.ended, attempts=brought.ended.attempts + losses)


def keep(job: Job, brought: Brought) -> None:
    """Put what a task brought where the job belongs, its record last; of a job that is done already, nothing.

    Raises:
        RunError: the folder cannot be written.
    """
    from orthogon import runs  # brings PyTorch, which the guard of every process would else wait for

    if job.done:
        return
    runs.write_bytes(job.log, brought.log)
    for name in sorted(brought.files, key=lambda name: (name == job.record, name)):
        runs.write_bytes(job.folder / name, brought.files[name])


def _kept(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a scan tells nobody that it runs
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # Ray would put its own function in the place of print
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("--ray needs Ray, which is not installed: pip install 'orthogon[ray]'") from error
