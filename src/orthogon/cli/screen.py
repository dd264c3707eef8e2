"""What a command says: messages and progress on standard error, its result on standard output."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orthogon.printing import printable_lines

PLAIN_EVERY = 20.0
"""Seconds between progress lines where standard error is no terminal."""
PLAIN_WIDTH = 160
"""Columns of a table where standard output is no terminal."""


@dataclass(frozen=True)
class Result:
    """What a command found: for machines (`data`, JSON-like) and for people (`shown`)."""

    data: dict[str, Any]
    shown: Sequence[RenderableType] = field(default_factory=list)
    code: int = 0
    """The exit code; not 0 where a part of the work failed, while the rest is worth showing."""


class Command(ABC):
    """What every command is: a frozen dataclass of its words, from which its part of the command line is made."""

    json: bool
    """Whether the result is printed as JSON."""

    @classmethod
    def preset(cls, words: Sequence[str]) -> Command | None:
        """What the words not given stand for, where that depends on the others; None: the dataclass's own defaults."""
        return None

    @abstractmethod
    def run(self, screen: Screen) -> Result:
        """Do it; messages and progress go to the screen."""


class Screen:
    """Standard error, for people."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def say(self, text: str) -> None:
        """One message; neither markup nor a terminal's commands in it are heeded, since it holds names from strangers' files."""
        self._console.print(printable_lines(text), markup=False, soft_wrap=True)

    @contextmanager
    def meter(self, title: str) -> Iterator[Callable[[float, str], None]]:
        """A progress bar with the time left, fed with (share done, note); lines of text where there is no terminal."""
        if not self._console.is_terminal:
            yield self._plain(title)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self._console, speed_estimate_period=60) as progress:
            task = progress.add_task(printable_lines(title), total=1.0, note="")
            yield lambda done, note="": progress.update(task, completed=done, note=printable_lines(note))

    def _plain(self, title: str) -> Callable[[float, str], None]:
        began = last = time.monotonic()
        first: float | None = None  # a resumed job starts part of the way

        def update(done: float, note: str = "") -> None:
            nonlocal last, first
            now = time.monotonic()
            first = done if first is None else first
            if now - last < PLAIN_EVERY:
                return
            last = now
            left = (now - began) * (1 - done) / (done - first) if done > first else None
            told = "" if left is None else f", {_duration(left)} left"
            self.say(f"{title}: {done:.0%}{told} {note}".rstrip())

        return update


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show(result: Result) -> None:
    """Print a result for people on standard output."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=PLAIN_WIDTH)
    for item in result.shown:
        told = printable_lines(item) if isinstance(item, str) else item
        console.print(told, markup=False, soft_wrap=isinstance(item, str))
