"""An attack by its name, with settings as words ("alpha=0.1") or JSON, typed by the attack's own dataclass."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from orthogon.attacks import ATTACKS, Attack

_FLAGS = {"true": True, "false": False}


def attack_named(name: str, changes: Iterable[str] = ()) -> Attack:
    """The attack of that name with its source's settings, but for the changes, each "NAME=VALUE".

    A tuple's values have commas between them: "colour=1,0,0".

    Raises:
        ValueError: no such attack, no such setting, or a value of another type or outside its range; the message lists what
            there is.
    """
    kind = _kind(name)
    hints, known = get_type_hints(kind), vars(kind())
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if key not in known or not equals:
            raise ValueError(f"setting {change!r} is not one of {name}'s: {_listed(kind) or 'it has none'}")
        try:
            values[key] = _read(hints[key], text.strip())
        except ValueError as error:
            raise ValueError(f"setting {change!r}: {key} takes {_wanted(hints[key])}; {name} has {_listed(kind)}") from error
    return kind(**values)


def attack_of(name: str, settings: Mapping[str, Any]) -> Attack:
    """The attack of that name with these settings, as a card holds them.

    Raises:
        ValueError: as `attack_named`.
    """
    return attack_named(name, [f"{key}={_word(value)}" for key, value in settings.items()])


def settings_of(attack: Attack) -> dict[str, Any]:
    """All settings, JSON-like."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(attack).items()}


def in_words(attack: Attack) -> tuple[str, ...]:
    """The settings that are not its source's, as `attack_named` takes them."""
    usual = vars(type(attack)())
    return tuple(f"{key}={_word(value)}" for key, value in vars(attack).items() if value != usual[key])


def _kind(name: str) -> type[Attack]:
    if name in ATTACKS:
        return ATTACKS[name]
    close = difflib.get_close_matches(name, ATTACKS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ValueError(f"{name!r} is no attack{hint}; there are {', '.join(ATTACKS)}")


def _listed(kind: type[Attack]) -> str:
    """ "alpha=0.2, size=3": every setting with its source's value."""
    return ", ".join(f"{key}={_word(value)}" for key, value in vars(kind()).items())


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(hint: Any, text: str) -> Any:
    """A value of that type from its word; ValueError where it is none."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        if text not in inner:
            raise ValueError
        return text
    if origin in (Union, UnionType):
        return _first(inner, text)
    if origin is tuple:
        parts = text.split(",")
        kinds = inner[:1] * len(parts) if inner[-1] is Ellipsis else inner
        return tuple(_read(kind, part) for kind, part in zip(kinds, parts, strict=True))
    if hint is bool:
        if text not in _FLAGS:
            raise ValueError
        return _FLAGS[text]
    return hint(text)


def _first(kinds: Iterable[Any], text: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, text)
        except ValueError:
            continue
    raise ValueError


def _wanted(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (Union, UnionType):
        return ", ".join(map(_wanted, inner))
    if origin is tuple:
        count = "values" if inner[-1] is Ellipsis else f"{len(inner)} values"
        return f"{count} with commas between them, each {_wanted(inner[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "a word")
