"""The benchmark whose posteriors are known: its formulas, its scores, and a small run of it."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

from benchmarks import gaussian_mixture
from benchmarks.mixtures import tables
from benchmarks.mixtures.problems import (
    UnitMixture,
    as_problem,
    draw_case,
    exact_samples,
    posterior,
    prior_mixture,
    scores,
)
from benchmarks.reporting import record
from benchmarks.reporting.record import origin_of
from lavps_jax.diffusion.bridges import add_noise
from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError

RNG = np.random.default_rng(3)
CASE = draw_case(RNG, 8, 2)
TARGET = posterior(CASE)


def log_density(x: np.ndarray, log_weights: np.ndarray, means: np.ndarray, std) -> np.ndarray:
    """Of mixtures at points (n, d)."""
    return logsumexp(log_weights + norm.logpdf(x[:, None], means, std).sum(-1), axis=1)


def test_the_posterior_is_prior_times_likelihood():
    x = exact_samples(RNG, TARGET, 50) + 0.5 * RNG.standard_normal((50, 8))
    joint = log_density(x, CASE.log_weights, CASE.means, 1.0)
    joint += norm.logpdf(CASE.y, x @ CASE.a.T, CASE.sigma_y).sum(1)
    ratio = joint - log_density(x @ TARGET.basis, TARGET.log_weights, TARGET.means, TARGET.std)
    assert np.ptp(joint) > 5 and np.ptp(ratio) < 1e-9


@pytest.mark.parametrize("d", [8, 800])
def test_the_fast_denoiser_is_the_exact_one(d):
    case = draw_case(np.random.default_rng(0), d, 1)
    fast = prior_mixture(case)
    assert isinstance(fast, UnitMixture)
    exact = GaussianMixture(fast.means, fast.log_weights, fast.std)
    rng = np.random.default_rng(1)
    x_0 = jnp.asarray(case.means[7] + rng.standard_normal(d), jnp.float32)[None, None]
    told = 0.0
    for t in (1, 100, 400, 800, 1000):
        eps = jnp.asarray(rng.standard_normal((1, 1, d)), jnp.float32)
        x_t = add_noise(eps, x_0, jnp.asarray(t), Schedule())
        mean = exact(x_t, jnp.asarray(t))
        np.testing.assert_allclose(fast(x_t, jnp.asarray(t)), mean, atol=2e-3)
        told = max(told, float(np.ptp(mean - x_t)))
    assert told > 5


def test_scores_tell_exact_samples_from_others():
    truth, again = exact_samples(RNG, TARGET, 1000), exact_samples(RNG, TARGET, 1000)
    exact = scores(again, TARGET, truth, 50, 1)
    assert abs(exact["coverage_50"] - 0.5) < 0.04 and abs(exact["coverage_90"] - 0.9) < 0.02
    assert exact["mode_error"] < 0.05
    # Twice as narrow around their mean.
    narrow = scores((again + again.mean(0)) / 2, TARGET, truth, 50, 1)
    assert narrow["coverage_90"] < 0.8 and narrow["distance"] > 2 * exact["distance"]
    # One mode only.
    top = TARGET.means[np.argmax(TARGET.log_weights)] + TARGET.std * RNG.standard_normal((1000, 8))
    lost = scores(top @ TARGET.basis.T, TARGET, truth, 50, 1)
    expected = 1 - np.exp(TARGET.log_weights.max())
    assert lost["mode_error"] == pytest.approx(expected, abs=0.02) and expected > 0.1


def measured(d: int, d_y: int, *methods: str) -> dict[str, dict[str, float]]:
    config = gaussian_mixture.Config(num_samples=400, methods=methods)
    return gaussian_mixture.Problems(config, d, d_y).measure(0)


def test_a_small_run_puts_the_rows_in_order():
    names = ("exact posterior denoiser, 20 steps", "MGDM K=3, lr 0.1", "prior samples")
    found = measured(8, 2, *names)
    distances = [found[name]["distance"] for name in ("floor", *names)]
    assert distances == sorted(distances) and distances[-1] > 3 * distances[1]


def test_chains_that_start_from_the_noised_mixture_reach_the_floor(monkeypatch):
    name = "exact posterior denoiser, 100 steps"
    right = measured(800, 1, name)
    monkeypatch.setattr(gaussian_mixture, "WIDE", 801)
    wrong = measured(800, 1, name)[name]["distance"]
    assert right[name]["distance"] < right["floor"]["distance"] + 0.25 < 0.25 * wrong


@pytest.mark.parametrize("name, time", [("DDRM", 999), ("DAPS", 954), ("DPS, step size 2", 999)])
def test_chains_start_from_the_noised_mixture(name, time):
    means = np.array([[40.0] * 8, [-20.0] * 8])
    prior = prior_mixture(CASE._replace(means=means, log_weights=np.log([0.3, 0.7])))
    sampler = gaussian_mixture.from_marginal(gaussian_mixture.METHODS[name])
    eps = RNG.standard_normal((4000, 1, 1, 8)).astype(np.float32)
    start = jax.vmap(lambda one: sampler.init(one, prior, as_problem(CASE)).x_t)(eps)
    alpha_bar = float(Schedule().alpha_bar[time])
    one_step = start[:, 0, 0] / alpha_bar**0.5
    of_mixture = 0.3 * 40 - 0.7 * 20
    spread = (0.21 * 60**2 + (1 + (1 - alpha_bar) / alpha_bar) / 8) ** 0.5
    averages = np.asarray(one_step.mean(1))
    assert averages.mean() == pytest.approx(of_mixture, abs=4 * spread / 4000**0.5)
    assert averages.std() == pytest.approx(spread, rel=0.05)


def test_reddiff_is_no_chain():
    sampler = gaussian_mixture.from_marginal(gaussian_mixture.METHODS["RED-diff"])
    problem = as_problem(CASE)
    state = sampler.init(jnp.ones((1, 1, 8)), prior_mixture(CASE), problem)
    np.testing.assert_array_equal(state.x_0, estimate(problem))
    assert (state.x_t == 1).all()


def test_the_suite_goes_on_where_it_was(tmp_path, monkeypatch):
    small = gaussian_mixture.Config(
        dims=((8, 1),), num_problems=1, num_samples=20, num_slices=5, methods=("prior samples",),
        out=str(tmp_path / "found.json"),
    )  # fmt: skip
    gaussian_mixture.main(small)
    first = (tmp_path / "found.json").read_bytes()
    row = json.loads(first)["results"]["problems"]["8,1"][0]["prior samples"]
    page = (tmp_path / "found.md").read_text()
    assert f"| prior samples | {row['distance']:.2f} |" in page and "](found.svg)" in page
    assert f"| prior samples | {row['mode_error']:.2f} |" in page
    assert "<svg" in (tmp_path / "found.html").read_text()
    monkeypatch.setattr(gaussian_mixture.Problems, "measure", None)  # Nothing is left to do.
    gaussian_mixture.main(small)
    assert (tmp_path / "found.json").read_bytes() == first
    with pytest.raises(UserError, match="of another table or settings; delete it"):
        gaussian_mixture.main(dataclasses.replace(small, num_samples=21))
    # Carried to another machine, for a size that comes first in the report.
    monkeypatch.undo()
    here, there = "cores (", "cores there ("
    monkeypatch.setattr(tables, "origin_of", lambda one: origin_of(one).replace(here, there))
    gaussian_mixture.main(dataclasses.replace(small, dims=((2, 1),)))
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert results["problems"]["8,1"] == json.loads(first)["results"]["problems"]["8,1"]
    assert here in results["origins"]["8,1"][0] and there in results["origins"]["2,1"][0]
    page = (tmp_path / "found.md").read_text()
    assert page.index("(2, 1): python") < page.index(there) < page.index("(8, 1): python")
    assert "|  | 2, 1 | 8, 1 |" in page
    monkeypatch.setattr(record, "current_commit", lambda: "another")
    with pytest.raises(UserError, match="this is another; delete it"):
        gaussian_mixture.main(small)


@pytest.mark.parametrize("d, d_y", [(7, 1), (0, 1), (8, 9), (8, 0)])
def test_sizes_that_do_not_exist_are_named(tmp_path, d, d_y):
    config = gaussian_mixture.Config(
        dims=((d, d_y),), num_problems=1, num_samples=20, methods=("prior samples",),
        out=str(tmp_path / "found.json"),
    )  # fmt: skip
    with pytest.raises(UserError, match=f"dims: got {d} {d_y}; give an even d"):
        gaussian_mixture.main(config)
