"""Processes of jobs, on this machine: started, timed, and ended with all that they have started."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from orthogon.fleet.job import Ended, Job, Terms

_LAST = 2000
"""Characters of what a process said last that are kept."""
_SAFE = "PYTHONSAFEPATH"
"""As -P, for the processes of a job's process too: a working folder full of strangers' files is no place to import from."""
_FIRST_TO_GO = "1000"
"""Linux ends this process first where memory runs out: neither the fleet's own nor its neighbours."""


class Children:
    """The processes that run now; from several threads at once."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._stopped = Lock(), False

    def run(self, job: Job, terms: Terms, changes: Mapping[str, str] | None = None) -> Ended:
        """Do the job, with as many attempts as the terms have.

        Args:
            job: its folder's parent is made where it is missing.
            terms: for each attempt.
            changes: of the environment.
        """
        try:
            job.folder.parent.mkdir(parents=True, exist_ok=True)
            ended = self._attempt(job, terms, changes or {}, 1)
            while ended.how == "exited" and ended.code not in terms.settled and ended.attempts <= terms.retries:
                ended = self._attempt(job, terms, changes or {}, ended.attempts + 1)
        except (OSError, ValueError) as error:  # a name too long for the disk, a word with a null in it, no process to be had
            return Ended("not started", said=str(error), node=platform.node())
        return ended

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                _end(child)

    def _attempt(self, job: Job, terms: Terms, changes: Mapping[str, str], number: int) -> Ended:
        node = platform.node()
        child = self._started(job, changes)
        if child is None:
            return Ended("interrupted", attempts=number, node=node)
        try:
            code = child.wait(terms.timeout)
        except subprocess.TimeoutExpired:
            return Ended("timed out", said=_last_words(job.log), attempts=number, node=node)
        finally:
            self._forget(child)
        return Ended("interrupted" if self._stopped else "exited", code, _last_words(job.log), number, node)

    def _started(self, job: Job, changes: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        with job.log.open("wb") as said, self._lock:
            if self._stopped:
                return None
            child = subprocess.Popen(
                [sys.executable, "-P", *job.words, "--out", str(job.folder)],
                stdin=subprocess.PIPE,  # held open as long as this process lives: see `guard`
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                env={**os.environ, _SAFE: "1", **changes},
            )
            self._running.add(child)
        with contextlib.suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text(_FIRST_TO_GO, "ascii")
        return child

    def _forget(self, child: subprocess.Popen[bytes]) -> None:
        _end(child)
        with self._lock:
            self._running.discard(child)
        if child.stdin is not None:
            child.stdin.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """A process and all that it has started, which may have outlived it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:  # Windows
            child.kill()
    child.wait()


def _last_words(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LAST))
        return file.read().decode("utf-8", "replace").strip()
