"""The command line with a protocol of few steps, in this process or (as a script) in one that can be killed."""

from __future__ import annotations

import sys

from orthogon.cli import main
from orthogon.protocols import PROTOCOLS, InversionSettings, Protocol, Stage

QUICK = Protocol(
    "screen",
    50,
    InversionSettings((Stage(restarts=1, steps=24, batch=12, rates=(0.5, 0.2), accept_every=4),), weight=2.0),
)
"""Stands in for `screen`."""

if __name__ == "__main__":
    PROTOCOLS["screen"] = QUICK
    sys.exit(main(sys.argv[1:]))
