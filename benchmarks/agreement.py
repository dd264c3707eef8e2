"""How the protocols agree: runs of the same pairs against a reference run (`paper`), on the pairs that both have."""

from __future__ import annotations

from pathlib import Path

from common import Record, agreement, by_pair, parser, read_distances, show


def main() -> None:
    """Compare the runs that are named with the reference, and write what came of it."""
    words = parser(__doc__, "agreement")
    words.add_argument("reference", type=Path, help="run folder or distances.json, usually of `paper`")
    words.add_argument("others", type=Path, nargs="+", help="run folders or distances.json, such as of `fast`, `screen`")
    args = words.parse_args()
    args.fresh = True  # a comparison takes no time: never taken up again
    reference, record = read_distances(args.reference), Record(args)
    rows = []
    for path in args.others:
        other = read_distances(path)
        result = agreement(other["values"], reference["values"])
        pairs = by_pair(other["values"], reference["values"])
        facts = {"protocol": other["protocol"], "seconds": other.get("seconds"), "hashes": other.get("hashes")}
        same = other.get("hashes") == reference.get("hashes")
        record.add(path.name if path.is_dir() else str(path.parent.name), {**facts, **result, "by_pair": pairs})
        ratios = [pair[3] for pair in pairs]
        figures = result["pairs"], float(result["mean_ratio"]), float(result["spearman"]), min(ratios), max(ratios)
        rows.append((other["protocol"], *figures, other.get("seconds"), "yes" if same else "no"))
    columns = ["protocol", "pairs", "mean ratio", "Spearman", "smallest ratio", "largest", "seconds", "same inputs"]
    show(f"against {reference['protocol']} ({reference.get('seconds')} s)", columns, rows)
    record.finish(reference=reference["protocol"], reference_seconds=reference.get("seconds"))


if __name__ == "__main__":
    main()
