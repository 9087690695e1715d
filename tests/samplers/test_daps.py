"""DAPS: Langevin steps that fit the likelihood, whatever its noise, scale and operator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.operators import Clipping, Identity, from_matrix
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, residual_chi2, simulate
from lavps_jax.samplers import DAPS, sample
from lavps_jax.samplers.daps import largest_curvature

SIZE, STD = 6, 0.5
SHAPE = (1, 1, SIZE)
RNG = np.random.default_rng(0)
A = RNG.standard_normal((4, SIZE))
X_0 = jnp.asarray(STD * RNG.standard_normal(SHAPE), jnp.float32)
PRIOR = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.asarray(STD))
KEY = jax.random.fold_in(jax.random.key(0), 0)
SAMPLER = DAPS(40, 5, 100, step_size_ratio=1.0)


def sampled(problem, count: int = 1000):
    out = sample(KEY, SAMPLER, PRIOR, problem, num_particles=count)
    assert np.isfinite(out.x_0).all()
    return np.asarray(out.x_0[:, 0, 0], np.float64)


@pytest.mark.parametrize("sigma_y", [1e-3, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_samples_are_those_of_the_posterior_at_any_noise(sigma_y, scale):
    """Steps of sigma_y^2 diverge at 1 and 5, and where A has another norm than 1."""
    a = scale * A / np.linalg.norm(A, 2)
    problem = simulate(jax.random.key(1), X_0, from_matrix(a, SHAPE), sigma_y)
    found = sampled(problem)
    covariance = np.linalg.inv(a.T @ a / sigma_y**2 + np.eye(SIZE) / STD**2)
    mean = covariance @ a.T @ np.asarray(problem.y, np.float64) / sigma_y**2
    # Along every eigenvector. The steps inflate the variance in the steepest one up to twice.
    values, vectors = np.linalg.eigh(covariance)
    z = (found - mean) @ vectors / np.sqrt(values)
    assert np.abs(z.mean(0)).max() < 0.4
    assert 0.75 < z.std(0).min() and z.std(0).max() < 1.5


def test_nothing_changes_with_the_unit_of_the_measurement():
    problem = simulate(jax.random.key(1), X_0, from_matrix(A, SHAPE), 0.3)
    other = Problem(10 * problem.y, from_matrix(10 * A, SHAPE), 3.0)
    np.testing.assert_allclose(sampled(other, 20), sampled(problem, 20), atol=2e-3)


@pytest.mark.parametrize("peak", [1.0, 1e4, 1e9])
def test_photons_in_the_dark_do_not_throw_samples_away(peak):
    x_0 = jnp.linspace(-0.9, 0.9, SIZE).reshape(SHAPE)
    problem = simulate(jax.random.key(1), x_0, Identity(x_shape=SHAPE), Poisson(peak))
    found = sampled(problem, 20)
    # Within the prior's width, or where y is.
    assert np.abs(found).max() < 4 * STD + 1
    if peak > 1e3:
        np.testing.assert_allclose(found, np.tile(x_0.ravel(), (20, 1)), atol=0.1)


def test_clipped_values():
    grey = jnp.zeros((8, 8, 1))
    prior = GaussianMixture(jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), jnp.asarray(STD))
    clipped = Clipping(jnp.float32(4.0), x_shape=grey.shape)
    problem = simulate(jax.random.key(1), grey + 0.7, clipped, 0.05)
    out = sample(KEY, SAMPLER, prior, problem, num_particles=4)
    assert np.abs(out.x_0).max() < 4 * STD + 1
    chi2 = np.asarray(jax.vmap(functools.partial(residual_chi2, problem))(out.x_0))
    # A value that is clipped at the wrong end has no gradient: not all chains leave it.
    assert 20 < np.median(chi2) < 130, chi2


def test_curvature_of_the_likelihood():
    problem = simulate(jax.random.key(1), X_0, from_matrix(A, SHAPE), 0.2)
    expected = np.linalg.norm(A, 2) ** 2 / 0.2**2
    assert float(largest_curvature(problem, X_0)) == pytest.approx(expected, rel=0.03)
    # A clipped pixel has no curvature: a grey image shows what the others have.
    clipping = Clipping(jnp.float32(2.0), x_shape=SHAPE)
    problem = simulate(jax.random.key(1), X_0, clipping, 0.1)
    assert float(largest_curvature(problem, jnp.full(SHAPE, 0.9))) == 0
    assert float(largest_curvature(problem, 0 * X_0)) == pytest.approx(4 / 0.1**2, rel=1e-3)
    # -log l of k photons where k are expected: (peak / 2)^2 / k.
    photons = simulate(jax.random.key(1), X_0, Identity(x_shape=SHAPE), Poisson(50.0))
    fewest = 25 * (float(photons.y.min()) + 1)
    found = float(largest_curvature(photons, photons.y))
    assert fewest > 1 and found == pytest.approx(25**2 / fewest, rel=0.03)
