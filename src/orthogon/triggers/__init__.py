"""Trigger families: differentiable image transformations with a size, one file each."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache

from orthogon.methods import PervasiveSettings
from orthogon.triggers.additive import Additive
from orthogon.triggers.colour import Colour
from orthogon.triggers.family import Measured, Notes, Seen, Trigger, TriggerFamily
from orthogon.triggers.filter import Filter
from orthogon.triggers.patch import Patch
from orthogon.triggers.pervasive import Pervasive
from orthogon.triggers.warp import Warp

FAMILIES: dict[str, TriggerFamily] = {
    "patch": Patch(),
    "filter": Filter(),
    "colour": Colour(),
    "warp": Warp(),
    "additive": Additive(),
    "pervasive": Pervasive(),
}
"""Every family that the command line can name. The networks of the pervasive one are opened when they are first needed."""


def family_of(name: str, pervasive: PervasiveSettings | None = None) -> TriggerFamily:
    """The family of that name; of pervasive triggers the one with these settings.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in FAMILIES:
        raise ValueError(f"{name!r} is no family of triggers; there are {', '.join(FAMILIES)}")
    if name != "pervasive" or pervasive is None or pervasive == PervasiveSettings():
        return FAMILIES[name]
    return _opened_once(pervasive)


@lru_cache(maxsize=8)
def _opened_once(settings: PervasiveSettings) -> Pervasive:
    return Pervasive(**asdict(settings))


__all__ = [
    "FAMILIES",
    "Additive",
    "Colour",
    "Filter",
    "Measured",
    "Notes",
    "Patch",
    "Pervasive",
    "Seen",
    "Trigger",
    "TriggerFamily",
    "Warp",
    "family_of",
]
