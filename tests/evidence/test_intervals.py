"""Intervals hold what they promise on skewed scores, and many comparisons are corrected for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.comparison.rankings import rank
from benchmarks.reporting.intervals import (
    Interval,
    holm,
    mean_interval,
    paired_interval,
    paired_p_value,
)


def rows(values):
    return [{"name": str(i), "a": float(value)} for i, value in enumerate(values)]


def test_few_values_have_the_interval_of_the_t_distribution():
    values = [1.0, 2.0, 4.0]
    mean, low, high = mean_interval(values)
    # t of 2 degrees of freedom, 4.3027, times the standard error, sqrt(7/3) / sqrt(3).
    assert mean == pytest.approx(7 / 3) and high - mean == pytest.approx(4.30265 * (7 / 9) ** 0.5)
    assert mean - low == pytest.approx(high - mean)
    assert mean_interval([0.3]) == mean_interval([0.3] * 9) == Interval(0.3, 0.3, 0.3)


def t_interval(values):
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return Interval(float(values.mean()), values.mean() - half, values.mean() + half)


def test_intervals_of_skewed_scores_hold_the_mean():
    drawn = np.random.default_rng(1).exponential(1.0, (1000, 8))
    boot, usual = (
        np.mean([one.low <= 1 <= one.high for one in map(interval, drawn)])
        for interval in (mean_interval, t_interval)
    )
    # The standard error of a share near .92 of 1,000 is .009.
    assert 0.895 <= boot <= 0.97 and boot > usual + 0.015


def test_intervals_of_normal_scores_are_not_wider_than_needed():
    drawn = np.random.default_rng(2).normal(3.0, 1.0, (400, 16))
    found = list(map(mean_interval, drawn))
    assert 0.92 <= np.mean([one.low <= 3 <= one.high for one in found]) <= 0.97
    usual = np.mean([np.ptp(t_interval(values)[1:]) for values in drawn])
    assert np.mean([one.high - one.low for one in found]) < 1.1 * usual


def test_the_longer_side_of_an_interval_is_that_of_the_tail():
    mean, low, high = mean_interval([0.01, 0.012, 0.015, 0.02, 0.02, 0.03, 0.05, 0.11])
    assert high - mean > 1.5 * (mean - low) > 0


def test_one_value_far_from_the_others_does_not_make_an_interval_endless():
    values = [*np.linspace(0.05, 0.07, 9), 5.2]
    found = mean_interval(values)
    assert found.low < 0.1 and t_interval(np.asarray(values)).high < found.high < 5.2


def test_differences_are_those_of_the_same_images():
    one, other = rows([1.0, 2.0, 4.0]), rows([2.0, 3.0, 5.0])
    assert paired_interval(one, other, "a") == pytest.approx((-1, -1, -1))
    with pytest.raises(AssertionError):
        paired_interval(one, other[::-1], "a")


def test_p_values_are_those_of_all_signs():
    # All of eight differences have one sign: 2 of 2^8 patterns are as extreme.
    assert paired_p_value(rows(range(1, 9)), rows([0] * 8), "a") == pytest.approx(2 / 256)
    assert paired_p_value(rows([1, 2, 3, 4]), rows([2, 1, 4, 3]), "a") == pytest.approx(1.0)


def test_holm():
    """By hand: .005 x 4, .01 x 3, .03 x 2, and .04 no less than the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_methods_that_are_equal_are_rarely_told_apart():
    """Twelve methods of one law: without the correction most tables would call one worse."""
    rng, called, wrong = np.random.default_rng(3), 0, 0
    for _ in range(20):
        entries = [
            {"method": str(m), "per_image": rows(rng.exponential(1.0, 64))} for m in range(12)
        ]
        ((ranked,),) = (tuple(one.values()) for one in rank([entries], lambda _: 1.0, (2,), "a"))
        assert len(ranked) == 12 and ranked[0].p_value == 1
        called += any(one.p_value < 0.05 for one in ranked)
        winner = ranked[0].entry["per_image"][32:]
        wrong += any(
            paired_p_value(one.entry["per_image"][32:], winner, "a") < 0.05 for one in ranked[1:]
        )
    assert called <= 3 and wrong > called


def test_a_real_difference_is_found_and_what_costs_more_is_left_out():
    rng = np.random.default_rng(4)
    image = rng.uniform(0, 1, 64)
    noise = rng.normal(0, 0.05, (2, 64))
    entries = [
        {"method": "good", "cost": 1, "per_image": rows(image + noise[0])},
        {"method": "bad", "cost": 1, "per_image": rows(image + 0.1 + noise[1])},
        {"method": "dear", "cost": 9, "per_image": rows(image - 1)},
    ]
    (ranked,) = rank([entries], lambda entry: entry["cost"], (2, 9), "a")
    assert [one.entry["method"] for one in ranked[2]] == ["good", "bad"]
    assert ranked[2][1].p_value < 0.05
    assert ranked[2][0].second_half.mean == pytest.approx((image + noise[0])[32:].mean())
    assert [one.entry["method"] for one in ranked[9]] == ["dear", "good", "bad"]


def test_scores_that_are_missing_tell_nothing():
    """None is what files hold in the place of a score that is not finite."""
    images = [{"name": str(k), "psnr": float(k)} for k in range(7)]
    other = [row | {"psnr": None} for row in images]
    p_value = paired_p_value(images, other, "psnr")
    assert np.isnan(p_value)
    assert holm([0.01, p_value]) == [0.02, 1.0]
