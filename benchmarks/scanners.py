"""Puts run folders of `orthogon bench scanners` together in results/scanners.json, with the areas under the ROC curves.

A scan stays in the file until a run has the same model by the same scanner; all of a scanner go where a run has other settings
of it. The areas are of the zoo's models, filed under "models"; `--part` files others apart. Tables are printed in Markdown.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from common import RESULTS, parser, plain, write_result
from orthogon import runs
from orthogon.bench.scanners import KINDS, LABELS, PATCH, PERVASIVE, area, interval

PARTS = ("models", "strangers", "like_trojai", "label_specific")
"""Models of the zoo, those of others, those of a set like TrojAI's, and more with a backdoor from one class to another."""
Scan: TypeAlias = dict[str, Any]


def scans_of(run: Path) -> dict[str, dict[str, Any]]:
    """Of each scanner of a run folder its settings, its threshold and its finished scans."""
    record = json.loads((run / "scanner-bench.json").read_text())
    truths = {model["model"]: model["truth"] for model in record["models"]}
    found = {}
    for row in record["rows"]:
        cells = [
            cell for cell in record["cells"] if cell["row"] == row["row"] and cell["status"] == "finished" and cell["folder"]
        ]
        scans = [
            _scan(cell, truths[cell["model"]], run / cell["folder"] / "scan.json", record["versions"]["cpu"]) for cell in cells
        ]
        if scans:
            found[row["row"]] = {"settings": row["settings"], "threshold": row["threshold"], "scans": scans}
    return found


def _scan(cell: Mapping[str, Any], truth: Mapping[str, Any], path: Path, cpu: str) -> Scan:
    first = cell["first"]
    told = {
        "model": cell["model"],
        "truth": {True: "backdoored", False: "clean", None: "unknown"}[truth["backdoored"]],
        **{name: truth[name] for name in ("attack", "victim", "target")},
        "score": cell["score"],
        "verdict": cell["verdict"],
        "first": None if first is None else [first["victim"], first["target"], first["family"]],
        "minutes": cell["minutes"],
        "cpu": cpu,
        "features": cell["features"],
    }
    facts = json.loads(path.read_text())["draws"][0]["facts"]
    sizes = {name: _by_target(fact["quick"]) for name, fact in facts.items() if isinstance(fact, dict) and "quick" in fact}
    return told | ({"sizes": sizes} if sizes else {})


def _by_target(quick: Sequence[Sequence[Any]]) -> dict[str, list[float]]:
    """Of [victim, target, size] of every search: the size of each target's universal trigger, and the median of its pairs'."""
    universal = {target: size for victim, target, size in quick if victim is None}
    pairs = {t: [size for victim, target, size in quick if victim is not None and target == t] for t in universal}
    return {
        "universal": [universal[target] for target in sorted(universal)],
        "median_of_pairs": [statistics.median(pairs[target]) if pairs[target] else math.nan for target in sorted(universal)],
    }


def joined(known: dict[str, Any], found: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, Any]:
    """The scanners of a results file with what a run has found, filed under a part."""
    for name, run in found.items():
        mine = known.get(name, {})
        if changes := runs.differences(mine.get("settings", run["settings"]), run["settings"]):
            print(f"{name}: earlier scans are by other settings and go ({'; '.join(changes)})", file=sys.stderr)
            mine = {}
        scans = {scan["model"]: scan for scan in (*mine.get(part, []), *run["scans"])}
        sort = [scans[model] for model in sorted(scans)]
        known[name] = {**mine, "settings": run["settings"], "threshold": run["threshold"], part: sort}
    return known


def areas(scans: Iterable[Scan]) -> dict[str, dict[str, Any]]:
    """Under the ROC curve, with the interval over the models, of all and of each data set's, by the kind of the attack."""
    scans, told = list(scans), {}
    for data in ("all", *sorted({_data(scan) for scan in scans})):
        mine = [scan for scan in scans if data in ("all", _data(scan))]
        clean = [_score(scan) for scan in mine if scan["truth"] == "clean"]
        for kind in ("all", PATCH, PERVASIVE):
            bad = [_score(s) for s in mine if s["truth"] == "backdoored" and kind in ("all", KINDS.get(s["attack"]))]
            if bad and clean:
                both = interval(bad, clean, np.random.default_rng(0))
                told[f"{data}, {kind}"] = {
                    "auc": area(bad, clean),
                    "interval_95": both and list(both),
                    "backdoored": len(bad),
                    "clean": len(clean),
                }
    return told


def on_the_same(scanners: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The areas on the models that each has scanned: of the scanners that have scanned the most, and of all that have areas."""
    scanned = {
        name: {s["model"]: s for s in told["models"] if s["score"] is not None} for name, told in scanners.items() if told["auc"]
    }
    most = max(map(len, scanned.values()))
    widest = [name for name, scans in scanned.items() if len(scans) == most]
    groups = []
    for members in [widest, list(scanned)] if len(widest) < len(scanned) else [widest]:
        models = sorted(set.intersection(*(set(scanned[name]) for name in members)))
        auc = {name: areas(scanned[name][model] for model in models)["all, all"] for name in members}
        groups.append({"models": models, "auc": auc})
    return groups


def _data(scan: Scan) -> str:
    """What a model of the zoo was trained on: its name begins with it."""
    return scan["model"].partition("-")[0]


def _score(scan: Scan) -> float:
    return math.nan if scan["score"] is None else scan["score"]


def _word(scan: Scan | None, threshold: float) -> str:
    """A cell of the table: the score, starred above the threshold, and whether the first suspect is right."""
    if scan is None or scan["score"] is None:
        return "–"
    score = f"{scan['score']:.3g}" if abs(scan["score"]) >= 10 else f"{scan['score']:.2f}"
    score = f"**{score}**" if scan["score"] > threshold else score
    if scan["truth"] != "backdoored" or not scan["first"] or scan["first"][1] != scan["target"]:
        return score
    if scan["first"][0] is None or scan["victim"] is None:
        return f"{score} (target)"
    return f"{score} (pair)" if scan["first"][0] == scan["victim"] else score


def _area_word(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "–"
    between = "{:.2f} to {:.2f}; ".format(*told["interval_95"]) if told["interval_95"] else ""
    return f"{told['auc']:.2f} ({between}{told['backdoored']}, {told['clean']})"


def main() -> None:
    """Read, join, judge, write, and show."""
    words = parser(__doc__, "scanners")
    words.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders of the bench; none: judge what is there")
    words.add_argument("--part", choices=PARTS, default="models", help="where their models are filed (default: %(default)s)")
    args = words.parse_args()
    path = RESULTS / f"{args.name}.json"
    record = {"scanners": {}} if args.fresh or not path.exists() else json.loads(path.read_text())
    for run in args.runs:
        record["scanners"] = joined(record["scanners"], scans_of(run), args.part)
    scanners = {name: record["scanners"][name] for name in LABELS if name in record["scanners"]}
    for scanner in scanners.values():
        scanner["auc"] = areas(scanner.get("models", []))
    record |= {"scanners": scanners, "same_models": on_the_same(scanners), "versions": runs.versions()}
    write_result(path, plain(record))
    for part in PARTS:
        by_name = {name: {scan["model"]: scan for scan in scanner.get(part, [])} for name, scanner in scanners.items()}
        clean_first = sorted({(scan["truth"] != "clean", model) for scans in by_name.values() for model, scan in scans.items()})
        rows = [[f"`{m}`", *(_word(by_name[n].get(m), scanners[n]["threshold"]) for n in scanners)] for _, m in clean_first]
        _table(part, [f"`{name}`, above {scanners[name]['threshold']:.3g}" for name in scanners], rows)
    kinds = dict.fromkeys(kind for scanner in scanners.values() for kind in scanner["auc"])
    rows = [[kind, *(_area_word(scanner["auc"].get(kind)) for scanner in scanners.values())] for kind in kinds]
    for same in record["same_models"]:
        rows.append([f"the same {len(same['models'])}", *(_area_word(same["auc"].get(name)) for name in scanners)])
    _table("AUC (95 %; poisoned, clean)", [f"`{name}`" for name in scanners], rows)
    print(f"written: benchmarks/results/{path.name}")


def _table(corner: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print in Markdown, as the documentation takes it."""
    if rows:
        lines = [[corner.replace("_", " "), *columns], ["---", *("---:" for _ in columns)], *rows]
        print(*("| " + " | ".join(line) + " |" for line in lines), "", sep="\n")


if __name__ == "__main__":
    main()
