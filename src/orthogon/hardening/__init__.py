"""Hardening: one loop that enlarges class distances; MOTH, its ablations and its baselines are settings of it."""

from orthogon.hardening.history import Check, History, Restart
from orthogon.hardening.loop import Hardening, HardeningDiverged, HardeningProgress, harden
from orthogon.methods import METHODS, MOTH, HardeningSettings

__all__ = [
    "METHODS",
    "MOTH",
    "Check",
    "Hardening",
    "HardeningDiverged",
    "HardeningProgress",
    "HardeningSettings",
    "History",
    "Restart",
    "harden",
]
