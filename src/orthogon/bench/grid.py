"""A paper's table as a declared grid: which rows, with which settings, and what was published of which models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from orthogon.bench.published import Table
from orthogon.methods import METHODS, Family, HardeningSettings, Method, PervasiveSettings

MAKING = ("family", "arms", "schedule", "warm_up", "reuse", "adversary")
"""Settings that make a method: a grid's rows choose them, never its user."""
_PERVASIVE = {field.name for field in fields(PervasiveSettings)}


@dataclass(frozen=True)
class Row:
    """One row of a grid: a method and what is changed in it."""

    key: str
    """Its name in words, folders and files."""
    label: str
    """Its name in tables."""
    method: Method | None
    """None where only the published figures are known."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the method's; those of its pervasive triggers, too, by their own names."""
    note: str = ""
    """What a reader has to know of it."""

    def changed(self, changes: Mapping[str, Any]) -> Row:
        """The same row with further changes."""
        return replace(self, changes={**self.changes, **changes})

    def settings(self, numbers: Mapping[str, Any] | None = None) -> HardeningSettings:
        """The method's settings with the user's numbers, then the row's own changes.

        What the numbers say of pervasive triggers holds for rows that are hardened by these, and is left out of the others.

        Raises:
            ValueError: the row has no method, or the settings do not go together.
        """
        if self.method is None:
            raise ValueError(f"{self.label} cannot be run: {self.note}")
        changes = {name: value for name, value in self.changes.items() if name not in _PERVASIVE}
        settings = replace(METHODS[self.method], **{**(numbers or {}), **changes})
        if settings.family != "pervasive":
            return replace(settings, pervasive=PervasiveSettings())
        own = {name: value for name, value in self.changes.items() if name in _PERVASIVE}
        return replace(settings, pervasive=replace(settings.pervasive, **own))


@dataclass(frozen=True)
class Subject:
    """A model of the paper: a data set and an architecture, with what was published of it."""

    key: str
    label: str
    source: str
    """Which of the paper's tables."""
    published: Table


@dataclass(frozen=True)
class Grid:
    """A table of a paper: every row is run on one model with the same budget."""

    name: str
    title: str
    paper: str
    rows: tuple[Row, ...]
    subjects: tuple[Subject, ...]
    distances: Literal["own"] | Family = "own"
    """Kind of trigger that measures all rows; own: the kind that hardens a row."""

    def chosen(self, keys: str | None) -> tuple[Row, ...]:
        """The rows that are named, comma between them, in the grid's order; all without names.

        Raises:
            ValueError: a name is none of the grid's rows, or of one that cannot be run.
        """
        if keys is None:
            return self.rows
        asked, known = [key.strip() for key in keys.split(",")], {row.key: row for row in self.rows}
        for key in asked:
            if key not in known:
                raise ValueError(f"--rows {key!r} is none of {self.name}'s: {', '.join(known)}")
            if known[key].method is None:
                raise ValueError(f"--rows {key!r} cannot be run: {known[key].note}")
        return tuple(row for row in self.rows if row.key in asked)

    def subject(self, key: str | None) -> Subject | None:
        """The model of that name; None without one.

        Raises:
            ValueError: the paper's table has none of that name.
        """
        known = {subject.key: subject for subject in self.subjects}
        if key is not None and key not in known:
            raise ValueError(f"--subject {key!r} is none of {self.name}'s: {', '.join(known)}")
        return None if key is None else known[key]


def numbers_of(settings: HardeningSettings, given: Collection[str] = ()) -> dict[str, Any]:
    """What a user asked for, for all rows alike.

    Args:
        settings: of the user's words.
        given: names of those that were said, which count also where they are the defaults: rows may have others of their own.

    Raises:
        ValueError: one of these makes the method, which the rows choose.
    """
    usual = HardeningSettings()
    changed = {name: value for name, value in vars(settings).items() if name in given or value != getattr(usual, name)}
    if making := [name for name in MAKING if name in changed]:
        word = f"--{making[0].replace('_', '-')}"
        raise ValueError(f"{word} makes the method, which the rows of a grid choose; `orthogon harden` takes it")
    return changed
