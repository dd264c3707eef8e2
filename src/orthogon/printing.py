"""Strangers' names, made fit to be shown: in a terminal, on a page, in a file."""

from __future__ import annotations

import unicodedata
from functools import lru_cache


@lru_cache(maxsize=4096)  # class names come by once for every pair
def printable(text: str) -> str:
    """Text with control and direction characters shown as escapes: names come from strangers' folders."""
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in sound(text))


def printable_lines(text: str) -> str:
    """The same of each line."""
    return "\n".join(map(printable, text.split("\n")))


def sound(text: str) -> str:
    """Without lone surrogates, which stand for a file name's bytes that are no UTF-8, and which no file of ours can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
