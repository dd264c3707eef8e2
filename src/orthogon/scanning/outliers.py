"""What stands out of some sizes: statistics for few values, of which one at the most is planted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from scipy.stats import t as student_t

_LEAST_SPREAD = 0.3
"""Deviation of the logarithms of pairs' sizes below which it counts as this: twice of what searches of one pair differ by."""
_CLEAN_DEGREES = 8
"""Values that the deviation of clean models counts like, beside those that are compared."""
_SURE = 1e-12
"""Probability from which on no difference is made."""
_SHARPNESS = 3.0
"""Of the smooth maximum: six equal values come to 0.6 deviations more."""


def smooth_maximum(values: Iterable[float]) -> float:
    """log of the sum of exponentials, of values taken three times: the largest, and somewhat more where several are as large."""
    known = [_SHARPNESS * value for value in values]
    largest = max(known)
    return (largest + math.log(sum(math.exp(value - largest) for value in known))) / _SHARPNESS


def expected_largest(count: int) -> float:
    """About the mean of the largest of so many draws from the standard normal distribution (Blom 1958)."""
    return statistics.NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def spread_of(logs: Sequence[float]) -> tuple[float, float]:
    """Median and deviation (1.4826 times the median absolute deviation, and no less than searches differ by)."""
    median = statistics.median(logs)
    return median, max(_LEAST_SPREAD, 1.4826 * statistics.median(abs(value - median) for value in logs))


def below_the_others(values: Sequence[float], clean_spread: float) -> list[float]:
    """How far each value lies below all the others: the quantile of a normal distribution that the smallest of so many passes.

    The variance of the others is averaged with that of clean models, which counts for as many values as `_CLEAN_DEGREES`
    (Smyth 2004, a moderated t-statistic).

    Args:
        values: logarithms of sizes, two at least.
        clean_spread: their deviation in clean models.
    """
    count, degrees = len(values), len(values) - 2 + _CLEAN_DEGREES
    quantiles = []
    for i, value in enumerate(values):
        others = [*values[:i], *values[i + 1 :]]
        own = statistics.variance(others) if count > 2 else 0.0
        variance = ((count - 2) * own + _CLEAN_DEGREES * clean_spread**2) / degrees
        gap = (statistics.fmean(others) - value) / math.sqrt(variance * (1 + 1 / (count - 1)))
        chance = -math.expm1(count * math.log1p(-min(float(student_t.sf(gap, degrees)), 1 - _SURE)))
        quantiles.append(-statistics.NormalDist().inv_cdf(min(max(chance, _SURE), 1 - _SURE)))
    return quantiles
