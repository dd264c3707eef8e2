"""What is to be done, on which terms, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Job:
    """A process of the Python interpreter that writes one folder."""

    words: tuple[str, ...]
    """Of the interpreter, such as ("-m", "orthogon", "scan", …); "--out" and the folder follow them."""
    folder: Path
    """Of the results; its name tells this job from every other."""
    record: str
    """Name of the file that the process writes last, so that a folder with it is finished."""

    @property
    def done(self) -> bool:
        """Whether the record is there."""
        return (self.folder / self.record).exists()

    @property
    def log(self) -> Path:
        """What the process says on standard error, beside the folder."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Terms:
    """What every process of a fleet may take, and when another attempt is worth it."""

    timeout: float
    """Seconds that one attempt may take."""
    retries: int
    """Attempts after the first."""
    settled: frozenset[int]
    """Exit codes that say what came of the job: no other attempt would end otherwise."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be above 0 seconds and finite, got {self.timeout}")
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0, got {self.retries}")


@dataclass(frozen=True)
class Ended:
    """How the last attempt at a job ended."""

    how: Literal["exited", "timed out", "interrupted", "lost", "not started"]
    """`interrupted` where the fleet was, `lost` where the machine or its worker went away, `not started` where the system has
    refused the process or its files."""
    code: int = 0
    """Of a process that exited: its exit code, or minus the signal that ended it."""
    said: str = ""
    """The last that the process said on standard error; of a job that is lost or was not started, why."""
    attempts: int = 1
    node: str = ""
    """Name of the machine."""
