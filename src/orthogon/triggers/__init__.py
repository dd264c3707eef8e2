"""Trigger families: differentiable image transformations with a size, one file each."""

from orthogon.triggers.family import Trigger, TriggerFamily
from orthogon.triggers.filter import Filter
from orthogon.triggers.patch import Patch

FAMILIES: dict[str, TriggerFamily] = {"patch": Patch(), "filter": Filter()}
"""Every family that the command line can name."""

__all__ = ["FAMILIES", "Filter", "Patch", "Trigger", "TriggerFamily"]
