from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lavps_jax.networks.layers import (
    AdaRMSNorm,
    FourierFeatures,
    TokenSplit,
    dropout,
    group_patches,
    ungroup_patches,
)


def test_patches_are_ordered_row_column_channel():
    x = jnp.arange(4 * 6 * 3.0).reshape(4, 6, 3)
    patches = group_patches(x, 2)
    assert patches.shape == (2, 3, 12)
    expected = [x[2 + a, 4 + b, c] for a in range(2) for b in range(2) for c in range(3)]
    np.testing.assert_array_equal(patches[1, 2], expected)
    np.testing.assert_array_equal(ungroup_patches(patches, 2), x)


def test_adaptive_norm_formula():
    norm = AdaRMSNorm(6, 3, rngs=nnx.Rngs(0))
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((3, 6))
    norm.linear.kernel[...] = jnp.asarray(weight, jnp.float32)
    x, cond = 1e-3 * generator.standard_normal((2, 4, 6)), generator.standard_normal(3)
    expected = x * (1 + cond @ weight) / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    out = norm(jnp.asarray(x, jnp.float32), jnp.asarray(cond, jnp.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_fourier_features_put_cosines_first():
    features = FourierFeatures(1, 8, rngs=nnx.Rngs(0))
    angle = 2 * np.pi * 0.3 * np.asarray(features.weight[...])[:, 0]
    expected = np.concatenate([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(features(jnp.array([0.3])), expected, atol=1e-5)


def test_split_mixes_the_skip_by_its_factor():
    split = TokenSplit(4, 3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 2, 4))
    skip = jax.random.normal(jax.random.key(1), (4, 4, 3))
    split.fac[...] = jnp.zeros(1)
    np.testing.assert_array_equal(split(x, skip), skip)
    split.fac[...] = jnp.ones(1)
    np.testing.assert_allclose(split(x, skip), split(x, 0 * skip), atol=1e-6)


def test_dropout_keeps_the_mean_and_the_rate():
    x = jnp.full((200, 100), 2.0)
    out = dropout(x, 0.25, jax.random.key(0))
    np.testing.assert_allclose(jnp.mean(out == 0), 0.25, atol=0.02)
    np.testing.assert_allclose(jnp.mean(out), 2.0, atol=0.05)
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)
