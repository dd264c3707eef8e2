"""What every bench does with the cells of its table: try each, and let no failure stop the others."""

from __future__ import annotations

from collections.abc import Callable

from orthogon.cli.screen import Screen


def failure(work: Callable[[], object], told: str, screen: Screen) -> str | None:
    """Why a piece of work failed; None where it did not.

    Args:
        work: is done once.
        told: what it is, for people.
        screen: is told of a failure.

    Raises:
        OSError: the folder or its disk, so that no other piece can do better.
    """
    try:
        work()
    except OSError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        if not isinstance(error, ValueError | RuntimeError | MemoryError):  # not foreseen: its kind tells more
            reason = f"{type(error).__name__}: {reason}"
        screen.say(f"{told}: {reason}")
        return reason
    return None
