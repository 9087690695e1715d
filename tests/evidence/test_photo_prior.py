"""The shipped prior of photographs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import lavps_jax as lavps
from lavps_jax.runs.loading import network_shape


@pytest.mark.parametrize("sigma", [0.06, 0.2, 0.5])
def test_it_denoises_photographs_that_it_never_saw(sigma):
    """Of the error that the best Gaussian blur leaves, at least a quarter less."""
    prior = lavps.load_prior("photo")
    x = lavps.data.shipped("photographs")[:, 90:157, 90:170]
    z = x + sigma * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    denoised = jax.jit(jax.vmap(prior.at_sigma, in_axes=(0, None)))(z, jnp.float32(sigma))
    widths = np.linspace(0.3, 2, 12)
    blurred = [np.mean((gaussian_filter(z, (0, w, w, 0)) - x) ** 2) for w in widths]
    assert np.mean((denoised - x) ** 2) < 0.75 * min(blurred)


def test_it_knows_the_most_noise_that_samplers_begin_with():
    """Where next to nothing is seen it says next to nothing."""
    prior, x = lavps.load_prior("photo"), lavps.data.shipped("photographs")[:, 90:154, 90:170]
    times = jnp.asarray([800, 900, 999])
    signal = np.sqrt(prior.schedule.alpha_bar[times])[:, None, None, None, None]
    noise = np.random.default_rng(0).normal(size=(3, *x.shape))
    noisy = (signal * x + np.sqrt(1 - signal**2) * noise).astype(np.float32)
    found = jax.jit(jax.vmap(jax.vmap(prior, (0, None)), (0, 0)))(noisy, times)
    assert np.all(np.mean((np.asarray(found) - x) ** 2, (1, 2, 3, 4)) < 1.1 * np.mean(x**2))


def test_no_image_is_too_large_for_it():
    assert network_shape("photo").trained_side is None
