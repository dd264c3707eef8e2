"""Where memory runs out: how to tell, and how to go on in smaller parts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

_Part = TypeVar("_Part")
_WORDS = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device: PyTorch's CPU allocator and cuBLAS have no exception class of their own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


class Parts:
    """Does many things so many at once as memory holds, which it remembers from call to call.

    Args:
        most: things at once; halved for good as often as memory runs out.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, work: Callable[[int, int], _Part], total: int) -> list[_Part]:
        """Do `total` things.

        Args:
            work: does those from the first number to before the second, again where memory ran out in the middle.
            total: how many there are.

        Returns:
            What `work` returned for each part, in order.

        Raises:
            RuntimeError, MemoryError: there is no room for one thing alone, or `work` failed for another reason.
        """
        done: list[_Part] = []
        start = 0
        while start < total:
            stop = min(start + self.most, total)
            try:
                done.append(work(start, stop))
            except (RuntimeError, MemoryError) as error:
                if stop - start == 1 or not out_of_memory(error):
                    raise
                self.most = (stop - start) // 2
                log.warning("out of memory: going on with %d at once", self.most)
                continue  # the error holds on to what did not fit until this clause is left
            start = stop
        return done
