"""Which samplers can be told apart, at equal budgets, and which cannot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.reporting.intervals import Interval, holm, mean_interval, paired_p_value

Entry = Mapping[str, Any]
"""One sampler on one task, as metrics.json has it, with its "method" and "budget"."""

RANKED_FROM = 64
"""Images; of fewer nothing is ranked."""


class Ranked(NamedTuple):
    """A method among those that take no more than a budget.

    Attributes:
      entry: its setting that has the least mean score on the first half of the images.
      second_half: mean score of that one on the others.
      p_value: that it is as good as the winner, on the others; corrected for all comparisons that
        are made with it. 1 for the winner itself.
    """

    entry: Entry
    second_half: Interval
    p_value: float


def rank(
    groups: Sequence[Sequence[Entry]], cost: Callable[[Entry], float], budgets: Sequence[float],
    key: str,
) -> list[dict[float, list[Ranked]]]:  # fmt: skip
    """For each group and budget the methods, winner first, then in the order of the group.

    Settings and winners are chosen on the first half of the images, so that what is said of them
    on the second is not better by the choice. Less is better.

    Args:
      groups: measured entries of one task each, all on the same images.
      cost: of an entry, in the unit of the budgets.
      budgets: what an entry may cost at most.
      key: of the score in "per_image".
    """
    chosen = [{budget: _chosen(group, cost, budget, key) for budget in budgets} for group in groups]
    tables = [(group, budget) for group, found in enumerate(chosen) for budget in found]
    p_values = iter(
        holm(
            [
                paired_p_value(_half(entry, 1), _half(chosen[group][budget][0], 1), key)
                for group, budget in tables
                for entry in chosen[group][budget][1:]
            ]
        )
    )
    ranked: list[dict[float, list[Ranked]]] = [{} for _ in groups]
    for group, budget in tables:
        ranked[group][budget] = [
            Ranked(
                entry,
                mean_interval([image[key] for image in _half(entry, 1)]),
                next(p_values) if place else 1.0,
            )
            for place, entry in enumerate(chosen[group][budget])
        ]
    return ranked


def _chosen(
    entries: Sequence[Entry], cost: Callable[[Entry], float], budget: float, key: str
) -> list[Entry]:
    """The best setting of each method on the first half of the images, the best of all first."""
    best: dict[str, Entry] = {}
    for entry in entries:
        if cost(entry) <= budget:
            method = entry["method"]
            best[method] = min(best.get(method, entry), entry, key=lambda one: _first(one, key))
    if not best:
        return []
    winner = min(best.values(), key=lambda one: _first(one, key))
    return [winner, *(one for one in best.values() if one is not winner)]


def _first(entry: Entry, key: str) -> float:
    return float(np.mean([image[key] for image in _half(entry, 0)]))


def _half(entry: Entry, number: int) -> Sequence[Mapping[str, Any]]:
    images = entry["per_image"]
    middle = len(images) // 2
    return images[middle:] if number else images[:middle]
