"""Words that stand for others: a dataclass of words with some of its defaults changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import tyro

_Words = TypeVar("_Words")


def to_be_given(kind: type[_Words], **known: Any) -> _Words:
    """Words with their defaults, and tyro's mark where there is none; made without __init__, whose types have no such mark."""
    made = object.__new__(kind)
    for f in fields(kind):  # pyright: ignore[reportArgumentType]
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        object.__setattr__(made, f.name, known.get(f.name, tyro.MISSING if default is MISSING else default))
    return made


def is_given(option: str, words: Sequence[str]) -> bool:
    """Whether an option such as "--model" is among the words, with its value behind it or joined to it."""
    return any(word.partition("=")[0].replace("_", "-") == option for word in words)
