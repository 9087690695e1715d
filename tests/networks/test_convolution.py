from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.networks.convolution import GroupNorm, Upsample, convolve


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (0, 1)])
def test_convolution_equals_the_one_of_xla(size, stride, padding):
    key_x, key_kernel = jax.random.split(jax.random.key(0))
    with jax.enable_x64(True):
        x = jax.random.normal(key_x, (7, 10, 4), jnp.float64)
        kernel = jax.random.normal(key_kernel, (size, size, 4, 5), jnp.float64)

        def reference(x, kernel):
            return jax.lax.conv_general_dilated(
                x[None],
                kernel,
                window_strides=(stride, stride),
                padding=(padding, padding),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )[0]

        def ours(x, kernel):
            return convolve(x, kernel, stride=stride, padding=padding)

        expected, expected_vjp = jax.vjp(reference, x, kernel)
        out, vjp = jax.vjp(ours, x, kernel)
        np.testing.assert_allclose(out, expected, atol=1e-12)
        cotangent = jnp.cos(expected)
        for a, b in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)


def test_group_norm_formula():
    norm = GroupNorm(6, 2, 1e-3)
    generator = np.random.default_rng(0)
    x = 100 + 0.05 * generator.standard_normal((4, 5, 6))
    scale, bias = generator.standard_normal((2, 6))
    norm.scale[...], norm.bias[...] = jnp.float32(scale), jnp.float32(bias)
    expected = np.empty(x.shape)
    for channels in (slice(0, 3), slice(3, 6)):
        group = x[..., channels]
        expected[..., channels] = (group - group.mean()) / np.sqrt(group.var() + 1e-3)
    out = norm(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(out, expected * scale + bias, atol=2e-3)


def test_upsampling_repeats_pixels():
    up = Upsample(2, rngs=nnx.Rngs(0))
    up.conv.kernel[...] = jnp.zeros((3, 3, 2, 2)).at[1, 1].set(jnp.eye(2))
    x = jax.random.normal(jax.random.key(0), (3, 2, 2))
    np.testing.assert_allclose(up(x), x.repeat(2, 0).repeat(2, 1))
