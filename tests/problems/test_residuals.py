"""The chi-square of residuals: what it counts, and its law for the true image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.metrics import chi2_band
from lavps_jax.operators import Identity, Inpainting, linear_operator
from lavps_jax.problems import Custom, Problem, residual_chi2
from lavps_jax.problems.problem import log_likelihood


def test_residual_ignores_what_was_not_measured():
    mask = jnp.asarray([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[..., None]
    operator = Inpainting(mask, x_shape=(2, 3, 2))
    x_0 = jnp.linspace(-1, 1, 12).reshape(2, 3, 2)
    residual = jnp.asarray([1.0, -2.0])[None, None] * jnp.ones((2, 3, 1))
    y = mask * (x_0 + residual) + 77.0 * (1 - mask)
    value = residual_chi2(Problem(y, operator, 0.5), x_0)
    assert float(value) == pytest.approx(3 * (1 + 4) / 0.25, rel=1e-5)
    noisier = Problem(y, operator, 0.5).replace(noise=1.0)
    assert float(residual_chi2(noisier, x_0)) == pytest.approx(float(value) / 4, rel=1e-5)
    for noise in (0.0 * y, jnp.ones(3)):  # A copy is checked as the first was.
        with pytest.raises(UserError, match="^sigma: got"):
            noisier.replace(noise=noise)


def test_what_a_noise_map_leaves_out_is_not_counted():
    sigma = jnp.full((4, 4, 1), 0.5).at[:2].set(jnp.inf)
    y = jnp.ones((4, 4, 1)).at[0, 0].set(jnp.nan)
    problem = Problem(y, Identity(x_shape=(4, 4, 1)), sigma)
    x_0 = jnp.zeros((4, 4, 1))
    assert float(problem.num_observed()) == 8
    assert float(residual_chi2(problem, x_0)) == pytest.approx(8 / 0.25)
    assert float(log_likelihood(problem, x_0)) == pytest.approx(-8 / 0.25 / 2)
    assert np.isfinite(jax.grad(lambda x: log_likelihood(problem, x))(x_0)).all()


def test_data_of_a_likelihood_keep_their_dtype():
    def of_some(data, y, prediction):
        return -jnp.sum((y - prediction)[data["index"]] ** 2) * data["scale"].imag

    data = {"index": jnp.arange(2), "scale": jnp.asarray(3j)}
    problem = Problem(jnp.ones((4, 1, 1)), Identity(x_shape=(4, 1, 1)), Custom(of_some, 1.0, data))
    assert float(log_likelihood(problem, jnp.zeros((4, 1, 1)))) == -6


def test_residual_counts_both_parts_of_complex_entries():
    def double(_, x):
        return 2 * jax.lax.complex(x, -x)

    operator = linear_operator(double, (2, 2, 1))
    x_0 = jnp.ones((2, 2, 1))
    y = operator.forward(x_0) + jax.lax.complex(0.3, -0.4)
    value = residual_chi2(Problem(y, operator, 0.1), x_0)
    assert float(value) == pytest.approx(4 * 25, rel=1e-4)


def test_residual_of_the_truth_lies_in_the_band():
    operator = Inpainting(jnp.ones((20, 20, 1)).at[3:9].set(0.0), x_shape=(20, 20, 3))
    x_0 = jnp.full((20, 20, 3), 0.25)
    sigma_y = 0.05

    def value(key):
        noise = jax.random.normal(key, x_0.shape)
        y = operator.project(operator.forward(x_0) + sigma_y * noise)
        return residual_chi2(Problem(y, operator, sigma_y), x_0)

    values = jax.vmap(value)(jax.random.split(jax.random.key(0), 400))
    low, high = chi2_band(operator.num_observed(), 0.8)
    inside = np.mean((values > low) & (values < high))
    assert inside == pytest.approx(0.8, abs=4 * 0.02)
