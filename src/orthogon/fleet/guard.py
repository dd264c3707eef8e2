"""A process that must not outlive the one that started it, however that one ends: kill -9 and a lost machine tell nobody."""

from __future__ import annotations

import os
import signal
import threading


def die_with_parent() -> None:
    """End this process, and all in its group, when standard input ends: the pipe closes with the process that holds it."""
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock would be held when the interpreter ends
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
