"""Simulated measurements have the noise that the likelihood and the residual test assume."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.operators import Identity, families, linear_operator, nonlinear_operator
from lavps_jax.problems.problem import Problem, log_likelihood, residual_chi2, simulate

SHAPE = (16, 16, 1)


def spectrum(data, x):
    return jnp.fft.fft2(x[..., 0], norm="ortho")


def square(data, x):
    return x**2


OPERATORS = {
    "identity": Identity(x_shape=SHAPE),
    "masked": families.RandomPixels(0.4, 0.6).draw(jax.random.key(9), SHAPE),
    "complex": linear_operator(spectrum, SHAPE),
    "not linear": nonlinear_operator(square, SHAPE),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_residual_of_the_truth_is_chi_square(name):
    operator = OPERATORS[name]
    x_0 = jax.random.uniform(jax.random.key(0), SHAPE, minval=-1.0)

    def one(key):
        problem = simulate(key, x_0, operator, 0.07)
        return residual_chi2(problem, x_0), log_likelihood(problem, x_0)

    chi2, log_l = jax.vmap(one)(jax.random.split(jax.random.key(1), 400))
    count = float(operator.num_observed())
    # Mean and variance of a chi-square; five standard errors of the former.
    assert abs(np.mean(chi2) - count) < 5 * np.sqrt(2 * count / 400)
    assert 0.7 < np.var(chi2) / (2 * count) < 1.4
    np.testing.assert_allclose(log_l, -chi2 / 2, rtol=1e-4)


def test_what_networks_see_of_a_measurement():
    """The posterior mean under independent pixels of variance 1 / 4."""
    y = jax.random.normal(jax.random.key(0), SHAPE)
    for sigma_y in (0.05, 0.5):
        x_pinv = estimate(Problem(y, Identity(x_shape=SHAPE), sigma_y))
        np.testing.assert_allclose(x_pinv, y / (1 + 4 * sigma_y**2), rtol=1e-5)
    curved = Problem(y, OPERATORS["not linear"], 0.1)
    np.testing.assert_array_equal(estimate(curved), 0 * y)
