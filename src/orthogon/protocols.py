"""Measuring protocols: how many samples, and how hard the search is."""

from __future__ import annotations

from dataclasses import dataclass

from orthogon.inversion import InversionSettings, Stage


@dataclass(frozen=True)
class Protocol:
    """A way to measure that numbers may be compared under."""

    name: str
    samples: int
    """Images of the victim class that a trigger is searched and judged on."""
    settings: InversionSettings


PAPER = Protocol(
    "paper",
    100,
    InversionSettings(
        (
            Stage(restarts=9, steps=100, batch=16, rates=(0.3, 0.15)),
            Stage(restarts=3, steps=3900, batch=32, rates=(0.15, 0.02), accept_every=10, patience=40),
        ),
        weight=2.0,
    ),
)
"""The paper's question (section V-A: 100 samples, 90 %, 1000 epochs of four batches, best of 3), asked of our search.

Its three searches each win over two others in their first 100 steps. A pair leaves when 400 steps have not brought a trigger
that is half a percent smaller.
"""

FAST = Protocol(
    "fast",
    100,
    InversionSettings(
        (
            Stage(restarts=8, steps=70, batch=16, rates=(0.3, 0.15)),
            Stage(restarts=2, steps=80, batch=20, rates=(0.15, 0.1)),
            Stage(restarts=1, steps=200, batch=24, rates=(0.12, 0.02), accept_every=10),
        ),
        weight=2.0,
    ),
)
"""The default: agrees with `paper` at a fraction of its time; docs/concepts says how far, measured."""

SCREEN = Protocol(
    "screen",
    50,
    InversionSettings(
        (
            Stage(restarts=3, steps=50, batch=12, rates=(0.3, 0.15)),
            Stage(restarts=1, steps=50, batch=16, rates=(0.15, 0.05), accept_every=10),
        ),
        weight=2.0,
    ),
)
"""A quick upper bound for many classes."""

NEURAL_CLEANSE = Protocol(
    "neural-cleanse",
    100,
    InversionSettings(
        (Stage(restarts=1, steps=3000, batch=32, rates=(0.1, 0.1), accept_every=3),),
        asr=0.99,
        loss="cross entropy",
        spare=0.0,
        focus=False,
        raise_by=1.5,
        lower_by=1.5**1.5,
        weight_patience=5,
        check_every=3,
    ),
)
"""Neural Cleanse's own search (Wang et al. 2019): cross entropy, all samples alike, 99 %, the weight moved every 5 epochs.

Meant for universal pairs: `orthogon measure --pairs universal --protocol neural-cleanse`.
"""

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (FAST, PAPER, SCREEN, NEURAL_CLEANSE)}
"""Every protocol by name."""
