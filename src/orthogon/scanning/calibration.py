"""From what a scanner has found to the probability of a backdoor: logistic regression on models whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.optimize import minimize

SCORE_ALONE = ("score",)
"""What a curve is fitted on where nobody names more."""


@dataclass(frozen=True)
class Calibration:
    """A scanner's logistic curve: 1 / (1 + exp(-(bias + Σ weight · (feature - mean) / scale)))."""

    scanner: str
    settings: Mapping[str, Any]
    """Of the scanner: a probability holds for these alone."""
    bias: float
    weights: Mapping[str, float]
    """By feature."""
    means: Mapping[str, float]
    """Of the features over the reference models."""
    scales: Mapping[str, float]
    """Their standard deviations."""
    low: float = 0.3
    """Probability up to which a model is called clean."""
    high: float = 0.7
    """Probability from which a model is called backdoored."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Which reference models, how many, how well the curve told each from the others; JSON-like."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"the bounds must be 0 <= low <= high <= 1, got {self.low} and {self.high}")
        if not set(self.weights) == set(self.means) == set(self.scales):
            raise ValueError("weights, means and scales must be of the same features")

    def require(self, scanner: str, settings: Mapping[str, Any]) -> None:
        """Raise ValueError unless this is the calibration of that scanner with those settings."""
        if scanner != self.scanner:
            raise ValueError(f"this is the calibration of the scanner {self.scanner}, not of {scanner}")
        if changed := sorted(name for name in {*settings, *self.settings} if settings.get(name) != self.settings.get(name)):
            raise ValueError(f"{scanner} was calibrated with other settings: {', '.join(changed)} differ")

    def fits(self, scanner: str, settings: Mapping[str, Any]) -> bool:
        """Whether it is of that scanner with those settings."""
        return scanner == self.scanner and dict(settings) == dict(self.settings)

    def probability(self, features: Mapping[str, float]) -> float:
        """That a model with these features is backdoored, 0 to 1.

        Raises:
            ValueError: a feature is missing or not finite.
        """
        if wrong := [name for name in self.weights if not math.isfinite(features.get(name, math.nan))]:
            raise ValueError(f"the features {', '.join(wrong)} are missing or not finite")
        steps = {name: (features[name] - self.means[name]) / self.scales[name] for name in self.weights}
        return _logistic(self.bias + sum(weight * steps[name] for name, weight in self.weights.items()))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file that ships."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave.

        Raises:
            ValueError: it is no calibration.
        """
        try:
            return cls(**record)
        except TypeError as error:
            raise ValueError(f"not a calibration: {error}") from error


def fit(
    scanner: str,
    settings: Mapping[str, Any],
    features: Sequence[Mapping[str, float]],
    backdoored: Sequence[bool],
    *,
    ridge: float = 1.0,
    low: float = 0.3,
    high: float = 0.7,
    facts: Mapping[str, Any] | None = None,
) -> Calibration:
    """Fit the curve on reference models.

    The clean ones together weigh as much as the others, however many they are. The weights, not the bias, are held back by a
    ridge penalty, without which models that a feature parts perfectly would make the curve a step.

    Args:
        scanner: its name.
        settings: of the scanner, as every reference model was scanned with.
        features: of each reference model.
        backdoored: the truth about each.
        ridge: half the penalty on the squared weights, against a sum of log losses over as many models as there are.
        low: probability up to which a model is to be called clean.
        high: probability from which a model is to be called backdoored.
        facts: what to keep with it, JSON-like; the leave-one-out probabilities are added.

    Raises:
        ValueError: fewer than two models of a kind, other numbers of truths than of models, or features that differ in name or
            are not finite.
    """
    truth = np.asarray(backdoored, dtype=bool)
    _require_models(features, truth)
    names = tuple(sorted(features[0]))
    table = np.array([[float(row[name]) for name in names] for row in features])
    bias, weights, means, scales = _fitted(table, truth, ridge)
    left_out = [_without(table, truth, i, ridge) for i in range(len(truth))]
    known = dict(facts or {}) | {"models": len(truth), "backdoored": int(truth.sum()), "left_out": left_out}
    by_name = [dict(zip(names, values.tolist(), strict=True)) for values in (weights, means, scales)]
    return Calibration(scanner, dict(settings), bias, by_name[0], by_name[1], by_name[2], low, high, known)


def fit_scans(
    records: Sequence[Mapping[str, Any]], backdoored: Sequence[bool], *, names: Collection[str] = SCORE_ALONE, **options: Any
) -> Calibration:
    """Fit the curve on finished scans, each by its first draw.

    Args:
        records: of scan.json, one per reference model.
        backdoored: the truth about each.
        names: of the features to fit on. The score alone is what some tens of reference models can bear.
        options: as for `fit`.

    Raises:
        ValueError: scans of different scanners or settings, one without a score or a named feature, or whatever `fit` refuses.
    """
    kinds = {json.dumps([record["scanner"], record["settings"]], sort_keys=True) for record in records}
    if len(kinds) != 1:
        raise ValueError(f"the scans must be of one scanner with one set of settings, got {len(kinds)}")
    if without := [i for i, record in enumerate(records) if record["draws"][0]["score"] is None]:
        raise ValueError(f"the scans {', '.join(map(str, without))} (from 0) have no score: leave them out")
    measured = [{**record["draws"][0]["features"], "score": record["draws"][0]["score"]} for record in records]
    if unknown := [name for name in names if any(name not in row for row in measured)]:
        raise ValueError(f"the scans have no features {', '.join(unknown)}, but {', '.join(sorted(measured[0]))}")
    features = [{name: row[name] for name in names} for row in measured]
    return fit(records[0]["scanner"], records[0]["settings"], features, backdoored, **options)


def shipped(scanner: str, settings: Mapping[str, Any]) -> Calibration | None:
    """The calibration that comes with the package for a scanner with these settings; None where there is none."""
    file = files("orthogon.scanning") / "calibrations" / f"{scanner}.json"
    if not file.is_file():
        return None
    calibration = Calibration.from_json(json.loads(file.read_text(encoding="utf-8")))
    return calibration if calibration.fits(scanner, settings) else None


def _require_models(features: Sequence[Mapping[str, float]], truth: np.ndarray) -> None:
    if len(features) != len(truth):
        raise ValueError(f"{len(features)} models but {len(truth)} truths")
    if min(truth.sum(), (~truth).sum()) < 2:
        raise ValueError(f"two models of each kind at least are needed, got {int((~truth).sum())} clean, {int(truth.sum())} not")
    if any(set(row) != set(features[0]) for row in features) or not features[0]:
        raise ValueError("every model must have the same features, and one at least")
    if not all(math.isfinite(value) for row in features for value in row.values()):
        raise ValueError("features must be finite: leave out models whose scan has no score")


def _fitted(table: np.ndarray, truth: np.ndarray, ridge: float) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Bias, weights, means and scales."""
    means, scales = table.mean(0), table.std(0)
    scales = np.where(scales > 0, scales, 1.0)
    steps, signs = (table - means) / scales, np.where(truth, 1.0, -1.0)
    shares = len(truth) / 2 * np.where(truth, 1 / truth.sum(), 1 / (~truth).sum())

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        bias, weights = parameters[0], parameters[1:]
        margins = signs * (bias + steps @ weights)
        pulls = -shares * signs / (1 + np.exp(np.clip(margins, -700, 700)))
        value = float((shares * np.logaddexp(0, -margins)).sum() + ridge / 2 * (weights**2).sum())
        return value, np.concatenate([[pulls.sum()], steps.T @ pulls + ridge * weights])

    best = minimize(loss, np.zeros(table.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return float(best[0]), best[1:], means, scales


def _without(table: np.ndarray, truth: np.ndarray, i: int, ridge: float) -> float | None:
    """The probability of a model by the curve fitted on all others; None where these are of one kind."""
    kept = np.arange(len(truth)) != i
    if truth[kept].all() or not truth[kept].any():
        return None
    bias, weights, means, scales = _fitted(table[kept], truth[kept], ridge)
    return _logistic(bias + float((table[i] - means) / scales @ weights))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
