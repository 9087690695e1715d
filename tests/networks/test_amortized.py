from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, SupervisedNetworkConfig, UNetConfig, split

UNET = UNetConfig(
    block_channels=(4, 8), attention=(False, True), layers_per_block=1, norm_num_groups=2
)


@pytest.fixture(params=["hdit", "unet"])
def backbone(request, tiny_config):
    return tiny_config if request.param == "hdit" else UNET


def images(num: int, size: int = 8) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (num, size, size, 3))


def test_fresh_residual_is_zero_and_every_input_counts(backbone, perturb):
    pure_model, weights = split(AmortizedNetworkConfig(backbone).build(nnx.Rngs(0)))
    evaluate = jax.jit(pure_model)
    inputs = [*images(3), jnp.float32(3.0), jnp.float32(0.5)]
    for residual in evaluate(weights, *inputs):
        np.testing.assert_array_equal(residual, np.zeros((8, 8, 3)))
    noisy = perturb(weights)
    out = jnp.stack(evaluate(noisy, *inputs))
    for i in range(5):
        changed = list(inputs)
        changed[i] = 1.5 * inputs[i]
        assert np.abs(jnp.stack(evaluate(noisy, *changed)) - out).max() > 1e-3, i


def test_log_embedding_is_the_linear_one_of_the_logarithm(tiny_config, perturb):
    logarithmic, weights = split(AmortizedNetworkConfig(tiny_config).build(nnx.Rngs(0)))
    linear, linear_weights = split(AmortizedNetworkConfig(tiny_config, "linear").build(nnx.Rngs(0)))
    weights, linear_weights = perturb(weights), perturb(linear_weights)
    sigmas = jnp.array([3.0, 0.5])
    out = jax.jit(logarithmic)(weights, *images(3), *sigmas)
    expected = jax.jit(linear)(linear_weights, *images(3), *(jnp.log(sigmas) / 4))
    np.testing.assert_allclose(jnp.stack(out), jnp.stack(expected), rtol=1e-4, atol=1e-5)


def test_conditional_denoiser_sees_state_measurement_and_noise(backbone, perturb):
    pure_model, weights = split(SupervisedNetworkConfig(backbone).build(nnx.Rngs(0)))
    evaluate = jax.jit(pure_model)
    inputs = [*images(2), jnp.float32(0.3)]
    np.testing.assert_array_equal(evaluate(weights, *inputs), np.zeros((8, 8, 3)))
    noisy = perturb(weights)
    out = evaluate(noisy, *inputs)
    assert out.shape == (8, 8, 3)
    for i in range(3):
        changed = list(inputs)
        changed[i] = 1.5 * inputs[i]
        assert np.abs(evaluate(noisy, *changed) - out).max() > 1e-3, i


@pytest.mark.parametrize("make", [AmortizedNetworkConfig, SupervisedNetworkConfig])
def test_template_must_be_for_images(tiny_config, make):
    with pytest.raises(UserError, match="backbone.out_channels: got 6"):
        make(dataclasses.replace(tiny_config, out_channels=6))


def test_unknown_embedding_is_refused(tiny_config):
    with pytest.raises(UserError, match="noise_embedding: got 'sqrt'"):
        AmortizedNetworkConfig(tiny_config, "sqrt")
