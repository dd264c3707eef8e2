"""A gate for a release: fails when a class pair of a measured run is far closer than the others.

python examples/gate.py RUN [SHARE]

Exit code 1 when a distance is below SHARE (0.25) of the median, 2 when the run has no distances to judge by. Reads
distances.json alone, so it needs nothing but Python. The share is an example, not a verdict: choose yours on models that
you trust.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path


def main(run: str, share: float = 0.25) -> int:
    """Print the pairs below the limit and return the exit code."""
    distances = Path(run, "distances.json")
    if not distances.exists():
        print(f"{distances} is not there: give the folder of `orthogon measure`", file=sys.stderr)
        return 2
    record = json.loads(distances.read_text(encoding="utf-8"))
    names = record["classes"]
    pairs = [
        (distance, names[victim], names[target])
        for victim, row in enumerate(record["values"])
        for target, distance in enumerate(row)
        if distance is not None
    ]
    if not pairs:
        print(f"{run}: no pair has a distance", file=sys.stderr)
        return 2
    limit = share * statistics.median(distance for distance, _, _ in pairs)
    close = sorted(pair for pair in pairs if pair[0] < limit)
    for distance, victim, target in close:
        print(f"{victim} -> {target}: {distance:.1f}, limit {limit:.1f} ({record['unit']})")
    return 1 if close else 0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:])))
