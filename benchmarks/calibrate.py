"""Fits a scanner's calibration on one half of the measured models, and judges it on the other.

Scores and truths are those of results/scanners.json. Of the models of each kind, sorted by name, every other one is fitted on; no
scan is repeated. The Brier score weighs both kinds alike. `--ship` puts the curve where the package takes it from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common import RESULTS, Record, parser, show
from orthogon import runs
from orthogon.bench.scanners import area
from orthogon.naming import settings_of
from orthogon.scanning import SCANNERS, Calibration, fit

SHIPPED = Path(__file__).parents[1] / "src/orthogon/scanning/calibrations"

LOW = 0.5
"""Probability up to which a model is called clean: that it has a backdoor is then less likely than that it has none."""
VERDICTS = ("backdoored", "inconclusive", "clean")

Model = tuple[str, bool, float]
"""Name, whether it is backdoored, score."""


def models_of(scanner: str, results: Path = RESULTS / "scanners.json") -> list[Model]:
    """All measured models of the zoo and like TrojAI's that have a score; strangers' are left for tests.

    Raises:
        SystemExit: they were scanned with other settings than the scanner's defaults of today, or nobody knows with which.
    """
    settings = json.loads(json.dumps(settings_of(SCANNERS[scanner]())))
    record = json.loads(results.read_text())["scanners"].get(scanner, {"models": [], "settings": settings})
    if changes := runs.differences(record.get("settings", {}), settings):
        sys.exit(f"the scores of {scanner} in {results.name} are by other settings ({'; '.join(changes)}): scan the models again")
    told = [*record["models"], *record.get("like_trojai", [])]
    return sorted((m["model"], m["truth"] == "backdoored", m["score"]) for m in told if m["score"] is not None)


def halves(models: Sequence[Model]) -> tuple[list[Model], list[Model]]:
    """Every other model of each kind, from the first on, and the rest."""
    kinds = _kinds(models)
    return [m for kind in kinds for m in kind[::2]], [m for kind in kinds for m in kind[1::2]]


def _kinds(models: Sequence[Model]) -> list[list[Model]]:
    """The clean ones, and the others."""
    return [[model for model in models if model[1] is kind] for kind in (False, True)]


def judged(curve: Calibration, models: Sequence[Model]) -> dict[str, Any]:
    """How good the probabilities are: area under the curve, Brier score, and what they call the models of each kind."""
    chances = {kind: [curve.probability({"score": s}) for _, bad, s in models if bad is kind] for kind in (True, False)}
    called = {kind: [_called(curve, chance) for chance in chances[kind]] for kind in chances}
    counts = {
        name: [called[kind].count(verdict) for verdict in VERDICTS] for kind, name in ((True, "backdoored"), (False, "clean"))
    }
    errors = [fmean((chance - kind) ** 2 for chance in chances[kind]) for kind in chances]
    return {"models": len(models), "auc": area(chances[True], chances[False]), "brier": fmean(errors), "called": counts}


def _called(curve: Calibration, chance: float) -> str:
    return "backdoored" if chance >= curve.high else "clean" if chance <= curve.low else "inconclusive"


def main() -> None:
    """Fit, judge, and write what is asked for."""
    words = parser(__doc__, "calibration-distance")
    words.add_argument(
        "--scanner", default="distance", choices=sorted(SCANNERS), help="whose --name is to differ (default: %(default)s)"
    )
    words.add_argument("--ship", action="store_true", help="write the curve into the package")
    args = words.parse_args()
    args.fresh = True  # it takes no time
    fitted, others = halves(models_of(args.scanner))
    if min(len(kind) for half in (fitted, others) for kind in _kinds(half)) < 2:
        words.error(f"of {args.scanner} too few models are measured: two of each kind are needed in either half")
    facts = {"fitted_on": [name for name, _, _ in fitted], "judged_on": [name for name, _, _ in others]}
    truth = [bad for _, bad, _ in fitted]
    settings = settings_of(SCANNERS[args.scanner]())
    curve = fit(args.scanner, settings, [{"score": s} for _, _, s in fitted], truth, low=LOW, facts=facts)
    rows = {"fitted on": judged(curve, fitted), "judged on": judged(curve, others)}
    columns = ["", "models", "AUC", "Brier", *(f"{kind} called {', '.join(VERDICTS)}" for kind in ("backdoored", "clean"))]
    shown = [
        [name, row["models"], row["auc"], row["brier"], *(", ".join(map(str, counts)) for counts in row["called"].values())]
        for name, row in rows.items()
    ]
    show(f"{args.scanner}, calibrated", columns, shown)
    chances = {str(score): curve.probability({"score": score}) for score in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)}
    record = Record(args)
    for name, row in rows.items():
        record.add(name, row)
    record.add(
        "models", [{"model": n, "backdoored": bad, "probability": curve.probability({"score": s})} for n, bad, s in others]
    )
    record.finish(probability_by_score=chances)
    if args.ship:
        SHIPPED.mkdir(exist_ok=True)
        (SHIPPED / f"{args.scanner}.json").write_text(json.dumps(curve.to_json(), indent=1) + "\n")
        print(f"shipped: {SHIPPED.name}/{args.scanner}.json")


if __name__ == "__main__":
    main()
