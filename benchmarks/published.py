"""A measured matrix of distances against a published one, a JSON file {"values": [[number or null]]} with victims as rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from common import Record, agreement, by_pair, parser, read_distances, show


def compare(measured: dict[str, Any], published: dict[str, Any], *, only_measured: bool) -> dict[str, Any]:
    """Agreement of two records, the lowest success rate, and how the pairs ended.

    Raises:
        ValueError: matrices of different sizes; unless `only_measured`, a published pair without a measured distance.
    """
    ours, theirs = measured["values"], published["values"]
    if ours.shape != theirs.shape:
        raise ValueError(f"{len(ours)} classes were measured, {len(theirs)} published")
    missing = int((theirs.isfinite() & ~ours.isfinite()).sum())
    if missing and not only_measured:
        raise ValueError(f"{missing} published pairs have no measured distance; compare the others with --only-measured")
    outcomes = Counter(outcome for row in measured["outcomes"] for outcome in row if outcome is not None)
    asr = measured["asr"][ours.isfinite()]
    facts = {"missing": missing, "lowest_asr": float(asr.min()), "outcomes": dict(outcomes)}
    return {
        **agreement(ours, theirs),
        **facts,
        "protocol": measured.get("protocol"),
        "seconds": measured.get("seconds"),
    }


def main() -> None:
    """Compare a run with a published matrix, and write what came of it."""
    words = parser(__doc__, "published")
    words.add_argument("distances", type=Path, help="a run folder, or its distances.json")
    words.add_argument("published", type=Path, help="the published matrix")
    words.add_argument("--only-measured", action="store_true", help="leave out published pairs that were not measured")
    words.add_argument("--worst", type=int, default=5, help="pairs to list (default: %(default)s)")
    args = words.parse_args()
    args.fresh = True  # a comparison takes no time: never taken up again
    measured, published = read_distances(args.distances), read_distances(args.published)
    result = compare(measured, published, only_measured=args.only_measured)
    worst = by_pair(measured["values"], published["values"])[: args.worst]
    show("against the published matrix", ["figure", "value"], list(result.items()))
    show("largest against the published", ["pair", "measured", "published", "ratio"], worst)
    Record(args).finish(**result, worst=worst)


if __name__ == "__main__":
    main()
