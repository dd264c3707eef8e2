"""Scanners against models whose truth is known: what every scan came to, and how well each scanner tells the models apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from orthogon import runs
from orthogon.scanning import Calibration, fit
from orthogon.scanning.ensemble import Ensemble, log_odds

TITLE = "Scanners against models whose truth is known"
LABELS = {
    "distance": "orthogon distance",
    "nc": "Neural Cleanse",
    "abs": "ABS",
    "k-arm": "K-Arm",
    "mm-bd": "MM-BD",
    "ensemble": "orthogon ensemble",
}
"""How tables name the scanners; one that is not here is shown by its own name."""
PATCH, PERVASIVE, OTHER = "patch", "pervasive", "other"
KINDS = {
    **dict.fromkeys(("badnets", "polygon", "clean-label"), PATCH),
    **dict.fromkeys(("blend", "sig", "wanet", "gotham", "nashville", "kelvin", "lomo", "toaster"), PERVASIVE),
    **dict.fromkeys(("reflection", "composite", "input-aware", "dfst", "adaptive"), PERVASIVE),
}
"""Whether a trigger is a patch, or changes most of an image as DECK's attacks do (section II); of a stranger's, nobody knows."""
_TAIL = 0.025
_RESAMPLED = 2000
"""Draws of the bootstrap."""


@dataclass(frozen=True)
class Truth:
    """What a model's card says was done to it."""

    attack: str | None = None
    """None: nothing."""
    kind: str | None = None
    """PATCH, PERVASIVE, or OTHER where it is not known; None without an attack."""
    backdoored: bool | None = False
    """None: there was an attack that did not take hold, so that the model counts as neither."""
    target: int | None = None
    victim: int | None = None
    """None: the backdoor works on every class, or there is none."""


def truth_of(card: Mapping[str, Any]) -> Truth:
    """What a card says: one of `orthogon poison` under "attack", a stranger's under "planted"; one without is of a clean model.

    Raises:
        ValueError: an attack whose target class is not told.
    """
    attack, planted = card.get("attack"), card.get("planted")
    if "given_model" in card or "hardening" in card:  # repaired or hardened: what is left of a backdoor, nobody knows
        return Truth(backdoored=None)
    if isinstance(attack, dict):
        name, aim, took = str(attack.get("name")), attack.get("threat") or {}, attack.get("planted", True)
    elif isinstance(planted, dict):
        name, aim, took = str(planted.get("attack") or planted.get("stamp")), planted, True
    else:
        return Truth()
    target, victim = aim.get("target"), aim.get("victim")
    if not isinstance(target, int):
        raise ValueError("its card tells of an attack, but of no target class: write the class's number under planted.target")
    return Truth(name, KINDS.get(name, OTHER), True if took else None, target, victim if isinstance(victim, int) else None)


def area(backdoored: Sequence[float], clean: Sequence[float]) -> float:
    """ROC-AUC: how often a backdoored model scores above a clean one, a tie counting half; NaN, no score, ties with every other.

    Args:
        backdoored: their scores, one at least.
        clean: theirs.
    """
    return float(_won(backdoored, clean).mean())


def interval(backdoored: Sequence[float], clean: Sequence[float], generator: np.random.Generator) -> tuple[float, float] | None:
    """95 % interval of the ROC-AUC over models drawn with replacement, each kind for itself; None below two of a kind.

    Where the scores separate the kinds without an exception, no draw could show one: then the open end is the bound of so many
    successes in a row (Clopper and Pearson 1934) as there are models of the rarer kind.
    """
    if min(len(backdoored), len(clean)) < 2:
        return None
    won = _won(backdoored, clean)
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), _RESAMPLED) / n for n in won.shape)
    low, high = np.quantile(np.einsum("di,ij,dj->d", rows, won, columns, optimize=True), (_TAIL, 1 - _TAIL))
    reach = _TAIL ** (1 / min(won.shape))
    if won.min() == 1:
        return reach, 1.0
    return (0.0, 1 - reach) if won.max() == 0 else (float(low), float(high))


def _won(backdoored: Sequence[float], clean: Sequence[float]) -> np.ndarray:
    """Of each pair of models: 1 where the backdoored one scores higher, 0 where the clean one does, else a half."""
    differences = np.subtract.outer(np.asarray(backdoored, dtype=float), np.asarray(clean, dtype=float))
    return (1 + np.nan_to_num(np.sign(differences))) / 2


class ScannerRecord:
    """The record of the bench; what earlier commands finished in the same folder stays in it, where it still holds.

    Args:
        path: scanner-bench.json.
        rows: scanners of this command: "row", "label", "settings", "source", "threshold", "rule".
        models: those of this command: "model", "path", "inputs", "truth" and what else is known of each.

    Raises:
        ValueError: a model is called as another one of the record that is another file.
    """

    def __init__(self, path: Path, rows: list[dict[str, Any]], models: list[dict[str, Any]]) -> None:
        earlier = runs.read_json(path) if path.exists() else {"rows": [], "models": [], "cells": []}
        self.rows = {name: row for name, row in _by("row", earlier["rows"]).items() if name != Ensemble.name} | _by("row", rows)
        known = _by("model", earlier["models"])
        for model in models:
            twin = next((m for m in (*known.values(), *models) if m["inputs"]["model"] == model["inputs"]["model"]), model)
            if twin["model"] != model["model"]:
                told = f"{model['path']} is the model that the bench has as {twin['model']} ({twin['path']})"
                raise ValueError(f"{told}: a model counts once, or a curve that is to judge it would have seen it")
            before = known.get(model["model"])
            if before is not None and before["path"] != model["path"] and before["inputs"]["model"] != model["inputs"]["model"]:
                other = f"the bench has another model called {model['model']} ({before['path']})"
                raise ValueError(f"{other}: rename the folder of {model['path']}")
        self.models = known | _by("model", models)
        self.cells = {
            (cell["row"], cell["model"]): cell for cell in earlier["cells"] if cell["row"] in self.rows and self._holds(cell)
        }

    def put(self, row: str, model: str, line: dict[str, Any]) -> None:
        """What came of a cell."""
        self.cells[row, model] = {**self._waiting(row, model), **line}

    def record(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The bench as scanner-bench.json holds it."""
        order = [*(row for row in LABELS if row in self.rows), *(row for row in self.rows if row not in LABELS)]
        calibrations = {row: curve for row in order if (curve := self.calibration(row)) is not None}
        cells = [self._cell(row, model, calibrations.get(row)) for row in order for model in self.models]
        rows = [self.rows[row] for row in order]
        if len(calibrations) > 1:
            rows.append(_ensemble_row(calibrations))
            cells += [self._ensemble(model, [c for c in cells if c["row"] in calibrations]) for model in self.models]
        return {
            "title": TITLE,
            "rows": rows,
            "models": list(self.models.values()),
            "cells": cells,
            "summary": [self._summary(row["row"], [cell for cell in cells if cell["row"] == row["row"]]) for row in rows],
            "calibrations": {row: curve.to_json() for row, curve in calibrations.items()},
            "settings": settings,
            "versions": runs.versions(),
        }

    def calibration(self, row: str) -> Calibration | None:
        """The curve of a scanner, fitted on all models of known truth that have a score; None where they are too few."""
        cells = [self.cells[row, model] for model in self._fitted_on(row)]
        truth = [self.models[cell["model"]]["truth"]["backdoored"] for cell in cells]
        if min(truth.count(True), truth.count(False)) < 2:
            return None
        facts = {"names": [cell["model"] for cell in cells], "judged": "each model by the curve fitted on all others"}
        curve = fit(row, self.rows[row]["settings"], [{"score": cell["score"]} for cell in cells], truth, facts=facts)
        chances = list(zip(curve.facts["left_out"], truth, strict=True))
        value = area([chance for chance, bad in chances if bad], [chance for chance, bad in chances if not bad])
        return replace(curve, facts={**curve.facts, "left_out_auc": value})

    def _fitted_on(self, row: str) -> list[str]:
        cells = [self.cells.get((row, model)) for model in self.models]
        told = (cell for cell in cells if cell and cell["status"] == "finished" and cell["score"] is not None)
        return [cell["model"] for cell in told if self.models[cell["model"]]["truth"]["backdoored"] is not None]

    def _holds(self, cell: dict[str, Any]) -> bool:
        """Whether a cell was finished with the settings that its row has now, on the model and images that it has now."""
        row, model = self.rows[cell["row"]], self.models[cell["model"]]
        return cell["status"] == "finished" and (cell["settings"], cell["inputs"]) == (row["settings"], model["inputs"])

    def _waiting(self, row: str, model: str) -> dict[str, Any]:
        facts = {"row": row, "model": model, "settings": self.rows[row]["settings"], "inputs": self.models[model]["inputs"]}
        empty = dict.fromkeys(("verdict", "score", "probability", "first", "target_right", "pair_right", "minutes", "reason"))
        return {**facts, "status": "waiting", **empty, "features": {}, "doubts": [], "folder": None}

    def _cell(self, row: str, model: str, calibration: Calibration | None) -> dict[str, Any]:
        cell = self.cells.get((row, model)) or self._waiting(row, model)
        names = [] if calibration is None else calibration.facts["names"]
        chance = calibration.facts["left_out"][names.index(model)] if calibration is not None and model in names else None
        return {**cell, "probability": chance} | _right(cell["first"], Truth(**self.models[model]["truth"]))

    def _ensemble(self, model: str, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Of the calibrated scanners' probabilities of a model, each by the curve of all others; waits until all are there."""
        mine = [cell for cell in cells if cell["model"] == model]
        waiting = any(cell["status"] == "waiting" for cell in mine)
        facts = {"row": Ensemble.name, "model": model, "settings": None, "inputs": self.models[model]["inputs"]}
        mine = [cell for cell in mine if cell["probability"] is not None]
        if waiting or not mine:
            empty = dict.fromkeys(("verdict", "score", "probability", "first", "minutes", "reason", "folder"))
            return {**facts, "status": "waiting", **empty, "features": {}, "doubts": []} | _right(None, Truth())
        score = statistics.fmean(log_odds(cell["probability"]) for cell in mine)
        loudest = max(mine, key=lambda cell: (cell["first"] is not None, cell["probability"]))
        return {
            **facts,
            "status": "finished",
            "verdict": "backdoored" if score > 0 else "clean",
            "score": score,
            "probability": 1 / (1 + math.exp(-score)),
            "first": loudest["first"],
            "minutes": sum(cell["minutes"] for cell in mine),
            "reason": None,
            "folder": None,
            "features": {"score": score},
            "doubts": [],
        } | _right(loudest["first"], Truth(**self.models[model]["truth"]))

    def _summary(self, row: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
        """Of the finished cells of a scanner on models whose truth is known; a failed one counts nowhere, and `of` tells so."""
        truths = {name: Truth(**model["truth"]) for name, model in self.models.items()}
        known = [cell for cell in cells if truths[cell["model"]].backdoored is not None]
        finished = [cell for cell in known if cell["status"] == "finished"]
        bad = [cell for cell in finished if truths[cell["model"]].backdoored]
        clean = [cell for cell in finished if not truths[cell["model"]].backdoored]
        kinds = {"all": bad} | {kind: [c for c in bad if truths[c["model"]].kind == kind] for kind in (PATCH, PERVASIVE)}
        universal = [cell for cell in bad if truths[cell["model"]].victim is None]
        minutes = [cell["minutes"] for cell in cells if cell["minutes"] is not None]
        return {
            "row": row,
            "models": len(finished),
            "of": len(known),
            "auc": {kind: _areas(part, clean, "score") for kind, part in kinds.items()},
            "calibrated": _calibrated(bad, clean),
            "false_alarms": _verdicts(clean, "backdoored"),
            "found": _verdicts(bad, "backdoored"),
            "inconclusive": _verdicts(finished, "inconclusive"),
            "target": _share(universal, "target_right"),
            "pair": _share([cell for cell in bad if cell not in universal], "pair_right"),
            "minutes": sum(minutes) / len(minutes) if minutes else None,
        }


def cell_of(record: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """A finished cell as the bench holds it, from the record of its scan.

    Args:
        record: as `Verdict.to_json` gives it, with "seconds".
        folder: where all its evidence lies.
    """
    (draw,) = record["draws"]
    return {
        "status": "finished",
        "verdict": record["verdict"],
        "score": record["score"],
        "features": draw["features"],
        "first": next(iter(draw["suspects"]), None),
        "doubts": draw["doubts"],
        "minutes": record["seconds"] / 60,
        "folder": folder,
    }


def facts_of(truth: Truth) -> dict[str, Any]:
    """JSON-like."""
    return asdict(truth)


def label_of(row: str) -> str:
    """A scanner's name in tables."""
    return LABELS.get(row, row)


def _ensemble_row(members: Iterable[str]) -> dict[str, Any]:
    """A row that needs no scans of its own."""
    names = list(members)
    rule = f"the mean log-odds of {', '.join(names)}, each by the curve fitted on all other models; a backdoor above 0"
    facts = {"settings": {"scanners": names}, "source": Ensemble.source, "threshold": 0.0, "rule": rule}
    return {"row": Ensemble.name, "label": label_of(Ensemble.name), **facts}


def _right(first: Mapping[str, Any] | None, truth: Truth) -> dict[str, bool | None]:
    """Whether the first suspect has the attack's target, and its victim too; None where there is no attack or no suspect."""
    if first is None or not truth.backdoored:
        return {"target_right": None, "pair_right": None}
    target = first["target"] == truth.target
    return {"target_right": target, "pair_right": target and first["victim"] == truth.victim}


def _areas(bad: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any] | None:
    """None where a kind of models is missing."""
    if not (bad and clean):
        return None
    above, below = ([float("nan") if cell[field] is None else cell[field] for cell in cells] for cells in (bad, clean))
    return {
        "value": area(above, below),
        "interval_95": interval(above, below, np.random.default_rng(0)),
        "backdoored": len(bad),
        "clean": len(clean),
    }


def _calibrated(bad: Sequence[Mapping[str, Any]], clean: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the probabilities say, from the upper bound of which a model would be called backdoored; None where there are none."""
    if all(cell["probability"] is None for cell in (*bad, *clean)):
        return None
    found, alarms = (sum((cell["probability"] or 0.0) >= Calibration.high for cell in cells) for cells in (bad, clean))
    return {
        "auc": _areas(bad, clean, "probability"),
        "found": {"count": found, "of": len(bad)},
        "false_alarms": {"count": alarms, "of": len(clean)},
    }


def _verdicts(cells: Sequence[Mapping[str, Any]], verdict: str) -> dict[str, int]:
    return {"count": sum(cell["verdict"] == verdict for cell in cells), "of": len(cells)}


def _share(cells: Sequence[Mapping[str, Any]], field: str) -> dict[str, int]:
    """A model without any suspect counts as wrong."""
    return {"count": sum(bool(cell[field]) for cell in cells), "of": len(cells)}


def _by(key: str, entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry[key]: entry for entry in entries}
