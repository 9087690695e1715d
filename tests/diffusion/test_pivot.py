"""The pivot of a state and a measurement against the law it stands for."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.diffusion.pivot import pivot
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.networks import (
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    SupervisedNetworkConfig,
    split,
)
from lavps_jax.operators import families
from lavps_jax.problems.noise import Custom, Gaussian
from lavps_jax.problems.problem import simulate
from lavps_jax.samplers import Supervised

SHAPE = (8, 8, 1)
SIGMA_Y = 0.1
FAMILIES = [families.RandomPixels(0.4, 0.6), families.SuperResolution(2), families.MotionBlur(5)]


def problem_of(family):
    key_operator, key_x, key_y = jax.random.split(jax.random.key(1), 3)
    x_0 = jax.random.uniform(key_x, SHAPE, minval=-1.0)
    return simulate(key_y, x_0, family.draw(key_operator, SHAPE), SIGMA_Y)


def matrix_of(operator):
    rows = jax.vmap(lambda e: operator.forward(e.reshape(SHAPE)).ravel())(jnp.eye(64))
    return np.asarray(rows, np.float64).T


@pytest.mark.parametrize("sigma_t", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda one: type(one).__name__)
def test_pivot_is_the_posterior_of_independent_pixels(family, sigma_t):
    problem = problem_of(family)
    z = sigma_t * jax.random.normal(jax.random.key(2), SHAPE)
    a = matrix_of(problem.operator)
    covariance = np.linalg.inv((4 + sigma_t**-2) * np.eye(64) + a.T @ a / SIGMA_Y**2)
    pull = np.asarray(z).ravel() / sigma_t**2 + a.T @ np.asarray(problem.y).ravel() / SIGMA_Y**2
    found = jax.jit(pivot)(problem, z, jnp.float32(sigma_t))
    np.testing.assert_allclose(np.ravel(found.mean), covariance @ pull, atol=2e-4)
    variances = np.diag(covariance)
    np.testing.assert_allclose(found.scale, np.sqrt(variances.mean()), rtol=0.15)
    if isinstance(family, families.RandomPixels):
        np.testing.assert_allclose(np.ravel(found.std), np.sqrt(variances), rtol=1e-4)


def test_without_information_in_y_it_is_the_preconditioning_of_karras():
    problem = problem_of(families.RandomPixels(0.4, 0.6)).replace(noise=Gaussian(1e3))
    z, sigma_t = jax.random.normal(jax.random.key(2), SHAPE), jnp.float32(0.7)
    c, found = EDM()(sigma_t), pivot(problem, z, sigma_t)
    np.testing.assert_allclose(found.mean, c.c_skip * z, atol=1e-5)
    np.testing.assert_allclose(found.scale, c.c_out, rtol=1e-5)


def test_a_fresh_network_returns_the_pivot_and_then_corrects_it(perturb):
    backbone = HDiTConfig(1, 1, 2, (LevelConfig(32, 1, GlobalAttention(16)),), 32, 1)
    model, weights = split(SupervisedNetworkConfig(backbone, pivot=True).build(nnx.Rngs(0)))
    denoiser = SupervisedDenoiser(weights, model, pivot=True)
    problem = problem_of(families.SuperResolution(2))
    z = jax.random.normal(jax.random.key(2), SHAPE)
    mean, _, scale = pivot(problem, z, jnp.float32(0.7))
    predict = jax.jit(SupervisedDenoiser.predict)
    x_0_hat, found = predict(denoiser, z, problem, (), jnp.float32(0.7))
    np.testing.assert_allclose(x_0_hat, mean, atol=1e-5)
    np.testing.assert_allclose(found, scale, rtol=1e-5)
    changed = denoiser.replace(weights=perturb(weights))
    corrected, _ = predict(changed, z, problem, (), jnp.float32(0.7))
    assert np.abs(corrected - mean).max() > 0.01 * scale


def test_operators_that_are_not_linear_are_refused():
    with pytest.raises(UserError, match="operator: got .*; give a linear one"):
        pivot(problem_of(families.HighDynamicRange()), jnp.zeros(SHAPE), jnp.float32(1.0))


@pytest.mark.parametrize("told", [{"pivot": True}, {"sees_measurement": True}])
def test_a_sampler_says_before_it_runs_what_its_denoiser_cannot_see(told):
    problem = problem_of(families.HighDynamicRange())
    palette = SupervisedDenoiser(None, lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a denoiser that sees the operator needs a linear one"):
        Supervised(palette.replace(**told)).check(problem)
    Supervised(palette).check(problem)
    with pytest.raises(UserError, match="noise: got a log-likelihood"):
        Supervised(palette).check(problem.replace(noise=Custom(lambda *_: 0.0, 0.1)))
