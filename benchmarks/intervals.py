"""Means with their 95 % t intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

__all__ = ["Interval", "mean_interval", "paired_interval"]


class Interval(NamedTuple):
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float] | np.ndarray) -> Interval:
    """Of independent values; of a single one the interval is that value."""
    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def paired_interval(
    per_image: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], key: str
) -> Interval:
    """Of the difference of a score between two runs on the same images, in the same order."""
    pairs = list(zip(per_image, other, strict=True))
    assert all(one["name"] == two["name"] for one, two in pairs)
    return mean_interval([one[key] - two[key] for one, two in pairs])
