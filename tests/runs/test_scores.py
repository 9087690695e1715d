"""Scores of a run against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.operators import families
from lavps_jax.runs.measurements import Simulation
from lavps_jax.runs.scores import (
    ensemble_scores,
    finite_mean,
    fit_warnings,
    num_observed,
    sample_scores,
)
from lavps_jax.samplers import MGDM


def simulated(num_images):
    data, operator = SyntheticData(64, (8, 8, 1)), families.RandomPixels(0.4, 0.6)
    config = SampleConfig(
        "", data, operator, MGDM(), "", num_images=num_images, batch_size=num_images
    )
    return Simulation(config).batch(0)


@pytest.fixture(scope="module")
def measured():
    return simulated(64)


def test_the_truth_lies_inside_the_band(measured):
    truth = measured.x_0[:, None]
    found = sample_scores(truth, measured)
    assert 0.95 < found["residual_inside_99"].mean() <= 1 and found["ssim"].mean() > 0.999
    assert sample_scores(truth + 0.1, measured)["residual_inside_99"].mean() < 0.1


def test_both_networks_of_lpips():
    measured = simulated(4)
    noisy = measured.x_0[:, None] + np.array([0.0, 0.05, 0.2]).reshape(1, 3, 1, 1, 1)
    found = sample_scores(noisy, measured, ("alexnet", "vgg16"))
    for name in ("lpips_alex", "lpips_vgg"):
        none, little, much = found[name].mean(0)
        assert abs(none) < 1e-6 and 0 < little < much
    assert not np.allclose(found["lpips_alex"], found["lpips_vgg"], rtol=0.01, atol=1e-6)


def test_samples_of_the_law_of_the_truth_are_calibrated(measured):
    """Truth and samples are draws of N(0, .2^2), so that every score is known."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 0.2, (20, *measured.x_0.shape)).astype(np.float32)
    measured = measured._replace(x_0=draws[0])
    found = ensemble_scores(np.moveaxis(draws[1:], 0, 1), measured)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(found, (64,))
    mean = {name: values.mean() for name, values in found.items()}
    # 4096 pixels: 4 standard errors.
    assert abs(mean["coverage_50"] - 0.5) < 4 * 0.5 / 64
    assert abs(mean["coverage_90"] - 0.9) < 4 * 0.3 / 64
    assert abs(mean["pixel_std"] / 0.2 - 1) < 0.01
    # E|X - y| - E|X - X'| / 2 = (2 - 1) .2 / sqrt(pi).
    assert abs(mean["crps"] / (0.2 / np.pi**0.5) - 1) < 0.05
    # Error of the mean of 19 samples, in units of the range of images.
    expected = -10 * np.log10(0.2**2 * (1 + 1 / 19) / 4)
    assert abs(mean["psnr_of_mean"] - expected) < 0.2


def test_what_too_few_samples_cannot_say(measured):
    samples = measured.x_0[:, None] + np.linspace(-0.1, 0.1, 3).reshape(1, 3, 1, 1, 1)
    assert not ensemble_scores(samples[:, :1], measured)
    assert not ensemble_scores(samples, measured._replace(x_0=None))
    assert {"coverage_50", "coverage_90"}.isdisjoint(ensemble_scores(samples[:, :2], measured))
    found = ensemble_scores(samples, measured)
    assert "coverage_50" in found and "coverage_90" not in found
    assert set(sample_scores(samples, measured._replace(x_0=None))) == {
        "residual_chi2",
        "residual_inside_99",
    }


def test_what_means_nothing_is_said_in_words(measured):
    truth = measured.x_0[:, None].repeat(2, axis=1)

    def said(samples):
        return fit_warnings("dps", sample_scores(samples, measured), num_observed(measured))

    assert said(truth) == []
    # Twice the variance is too much, for most of them only.
    off = truth + 0.1
    (words,) = said(off)
    assert "128 of 128 samples do not fit what was measured" in words and "5" in words
    some = np.where(np.arange(64)[:, None, None, None, None] < 24, off, truth)
    assert said(some) == []
    y = np.asarray(measured.problems.y)[:, None].repeat(2, axis=1)
    (words,) = said(y)
    assert "fit the noise too" in words


def test_infinite_scores_are_left_out():
    assert finite_mean(np.array([[1.0, np.inf], [3.0, np.nan]])) == 2
    assert finite_mean(np.array([np.inf])) is None
