from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.networks import PaletteConfig, PureModel, UNetConfig, split, trainable_mask

UNET = UNetConfig(
    block_channels=(4, 8), attention=(False, True), layers_per_block=1, norm_num_groups=2
)


@pytest.fixture(params=["hdit", "unet", "palette"])
def config(request, tiny_config):
    if request.param == "palette":
        return PaletteConfig(tiny_config)
    return tiny_config if request.param == "hdit" else UNET


def test_networks_built_apart_are_equal(config):
    first, first_weights = split(config.build(nnx.Rngs(0)))
    second, second_weights = split(config.build(nnx.Rngs(1)))
    assert first == second and hash(first) == hash(second)
    assert jax.tree.structure(first_weights) == jax.tree.structure(second_weights)


def test_another_shape_is_another_model(tiny_config):
    other = dataclasses.replace(tiny_config, mapping_depth=2)
    dropped = dataclasses.replace(
        tiny_config, levels=tuple(dataclasses.replace(x, dropout=0.0) for x in tiny_config.levels)
    )
    models = {split(c.build(nnx.Rngs(0)))[0] for c in (tiny_config, other, dropped, UNET)}
    assert len(models) == 4


def test_equal_models_are_traced_once(tiny_config):
    num_traces = 0

    def evaluate(pure_model: PureModel, weights, x):
        nonlocal num_traces
        num_traces += 1
        return pure_model(weights, x, jnp.zeros(1))

    jitted = jax.jit(evaluate, static_argnums=0)
    for seed in range(3):
        pure_model, weights = split(tiny_config.build(nnx.Rngs(seed)))
        jitted(pure_model, weights, jnp.ones((8, 8, 3)))
    assert num_traces == 1


def test_pure_model_equals_the_network(tiny_config, perturb):
    model = tiny_config.build(nnx.Rngs(0))
    pure_model, weights = split(model)
    noisy = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))
    out = jax.jit(pure_model)(noisy, x, jnp.array([0.1]))
    nnx.update(model, noisy)
    assert np.abs(out).max() > 0.1
    np.testing.assert_allclose(
        jax.jit(lambda x: model(x, jnp.array([0.1])))(x), out, rtol=1e-4, atol=1e-5
    )


def test_only_fourier_frequencies_are_not_trained(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    mask = trainable_mask(weights)
    assert jax.tree.structure(mask) == jax.tree.structure(weights)

    def loss(weights):
        return jnp.sum(pure_model(weights, jnp.ones((8, 8, 3)), jnp.array([0.1])) ** 2)

    gradient = nnx.to_flat_state(jax.jit(jax.grad(loss))(weights))
    fixed = set()
    for (path, keep), (_, slope) in zip(nnx.to_flat_state(mask), gradient, strict=True):
        if jax.tree.leaves(keep) == [True]:
            assert np.abs(slope[...]).max() > 0, path
        else:
            fixed.add(path)
            np.testing.assert_array_equal(slope[...], 0)
    assert fixed == {("time_emb", "weight"), ("aug_emb", "weight")}
