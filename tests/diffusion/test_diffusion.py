"""The exact mixture denoiser against quadrature, and the forward process."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.diffusion.bridges import add_noise
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule

ALPHA_BAR = np.asarray(Schedule().alpha_bar, np.float64)


def test_mixture_denoiser_is_the_posterior_mean():
    means = np.array([[-1.0, 0.5], [0.3, -0.8], [1.5, 1.0]])
    weights, std = np.array([0.2, 0.5, 0.3]), np.array([0.4, 0.7])
    grid = np.linspace(-6, 6, 601)
    x_0 = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    gaussians = np.exp(-np.sum(((x_0[None] - means[:, None, None]) / std) ** 2, axis=-1) / 2)
    prior_density = np.tensordot(weights, gaussians, axes=1)
    prior = GaussianMixture(
        jnp.asarray(means[:, None, None], jnp.float32),
        jnp.log(jnp.asarray(weights, jnp.float32)),
        jnp.asarray(std[None, None], jnp.float32),
    )
    for t in (50, 200, 600):
        x_t = np.array([0.4, -0.3])
        error = x_t - np.sqrt(ALPHA_BAR[t]) * x_0
        density = prior_density * np.exp(-np.sum(error**2, axis=-1) / (2 * (1 - ALPHA_BAR[t])))
        expected = np.tensordot(density, x_0, axes=2) / density.sum()
        x = jnp.asarray(x_t, jnp.float32)[None, None]
        found = prior(x, jnp.int32(t))[0, 0]
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_noise_and_signal_of_the_forward_process():
    x_0, eps = jax.random.normal(jax.random.key(0), (2, 5, 5, 1))
    for t in (1, 300, 1000):
        expected = np.sqrt(ALPHA_BAR[t]) * x_0 + np.sqrt(1 - ALPHA_BAR[t]) * eps
        np.testing.assert_allclose(
            add_noise(eps, x_0, jnp.int32(t), Schedule()), expected, atol=1e-6
        )
