from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
    split,
    trainable_mask,
)

FFHQ256 = HDiTConfig(
    patch_size=4,
    levels=(
        LevelConfig(192, 2, NeighbourhoodAttention(5)),
        LevelConfig(384, 2, NeighbourhoodAttention(7)),
        LevelConfig(768, 4),
        LevelConfig(1536, 2),
    ),
)
IMAGENET256 = HDiTConfig(
    patch_size=4,
    levels=(
        LevelConfig(384, 2, NeighbourhoodAttention(7)),
        LevelConfig(768, 2, NeighbourhoodAttention(7)),
        LevelConfig(1536, 16),
    ),
    mapping_width=768,
    num_classes=1000,
)


def num_trained(config) -> int:
    weights = nnx.state(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    keep = jax.tree.leaves(trainable_mask(weights))
    sizes = [leaf.size for leaf in jax.tree.leaves(weights)]
    return sum(size for size, trained in zip(sizes, keep, strict=True) if trained)


@pytest.mark.parametrize(
    ("config", "num_parameters"),
    [
        # The published total also counts 129 parameters of an unused head.
        (FFHQ256, 151_883_256 - 129),
        (AmortizedNetworkConfig(FFHQ256), 151_976_311),
        (AmortizedNetworkConfig(IMAGENET256), 598_946_378),
    ],
)
def test_published_numbers_of_parameters(config, num_parameters):
    assert num_trained(config) == num_parameters


def test_fresh_network_returns_zero(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))
    evaluate = jax.jit(pure_model)
    x = jax.random.normal(jax.random.key(0), (8, 12, 3))
    out = evaluate(weights, x, jnp.array([0.3]))
    np.testing.assert_array_equal(out, np.zeros((8, 12, 3)))
    assert np.abs(evaluate(perturb(weights), x, jnp.array([0.3]))).max() > 0.1


def test_batch_is_a_loop(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    noise_levels = jnp.linspace(-1.0, 1.0, 3)[:, None]
    keys = jax.random.split(jax.random.key(1), 3)

    def evaluate(x, noise_levels, key):
        return pure_model(weights, x, noise_levels, dropout_key=key)

    batched = jax.jit(jax.vmap(evaluate))(x, noise_levels, keys)
    one_by_one = [jax.jit(evaluate)(*each) for each in zip(x, noise_levels, keys, strict=True)]
    np.testing.assert_allclose(batched, jnp.stack(one_by_one), rtol=1e-4, atol=1e-5)
    assert np.abs(batched[0] - batched[1]).max() > 0.1


def test_dropout_is_active_only_with_a_key(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    without = dataclasses.replace(
        tiny_config, levels=tuple(dataclasses.replace(x, dropout=0.0) for x in tiny_config.levels)
    )
    x, noise_levels = jax.random.normal(jax.random.key(0), (8, 8, 3)), jnp.array([0.3])

    @jax.jit
    def evaluate(weights, key):
        plain = pure_model(weights, x, noise_levels)
        return plain, pure_model(weights, x, noise_levels, dropout_key=key)

    plain, first = evaluate(weights, jax.random.key(0))
    _, again = evaluate(weights, jax.random.key(0))
    _, second = evaluate(weights, jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.1 and np.abs(first - plain).max() > 0.1

    undropped, other_weights = split(without.build(nnx.Rngs(0)))
    leaves, structure = jax.tree.leaves(weights), jax.tree.structure(other_weights)
    out = jax.jit(undropped)(jax.tree.unflatten(structure, leaves), x, noise_levels)
    np.testing.assert_allclose(out, plain, rtol=1e-4, atol=1e-5)


def test_second_noise_level_starts_without_effect(tiny_config, perturb):
    config = dataclasses.replace(tiny_config, num_noise_levels=2)
    pure_model, weights = split(config.build(nnx.Rngs(0)))
    noisy = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))

    evaluate = jax.jit(pure_model)

    def change(weights, low, high):
        return np.asarray(evaluate(weights, x, high) - evaluate(weights, x, low))

    first = jnp.array([[0.1, 0.4], [0.7, 0.4]])
    second = jnp.array([[0.1, 0.4], [0.1, 0.9]])
    assert np.abs(change(noisy, *first)).max() > 1e-2
    assert np.abs(change(noisy, *second)).max() > 1e-2
    noisy["time_in_proj_s"]["kernel"][...] = weights["time_in_proj_s"]["kernel"][...]
    assert np.abs(change(noisy, *first)).max() > 1e-2
    np.testing.assert_array_equal(change(noisy, *second), np.zeros(x.shape))


def test_gradient_is_finite_at_a_constant_image(tiny_config, perturb):
    pure_model, weights = split(tiny_config.build(nnx.Rngs(0)))

    def loss(weights, x):
        return jnp.sum((pure_model(weights, x, jnp.zeros(1)) - 1.0) ** 2)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))(perturb(weights), jnp.zeros((8, 8, 3)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient[1]).max() > 0


def test_mistakes_in_calls_are_named(tiny_config):
    model = tiny_config.build(nnx.Rngs(0))
    noise_levels = jnp.zeros(1)
    x = jnp.zeros((8, 8, 3))
    with pytest.raises(UserError, match="image size: got 8 x 10; .*multiples of 4"):
        model(jnp.zeros((8, 10, 3)), noise_levels)
    with pytest.raises(UserError, match=r"x: got \(2, 8, 8, 3\); .*jax.vmap"):
        model(x[None].repeat(2, 0), noise_levels)
    with pytest.raises(UserError, match="noise_levels"):
        model(x, jnp.zeros(2))
    with pytest.raises(UserError, match="label.*no classes"):
        model(x, noise_levels, label=jnp.zeros(3))
    with pytest.raises(UserError, match=r"kernel_size: got 3; use at most the 2 x 4"):
        model(jnp.zeros((4, 8, 3)), noise_levels)
    model = dataclasses.replace(tiny_config, num_classes=4).build(nnx.Rngs(0))
    with pytest.raises(UserError, match=r"label: got \(3,\)"):
        model(x, noise_levels, label=jnp.zeros(3))


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: NeighbourhoodAttention(4), "attention.kernel_size: got 4"),
        (lambda: GlobalAttention(20), "attention.head_size: got 20"),
        (lambda: LevelConfig(96, 1), "level.width: got 96"),
        (lambda: LevelConfig(64, 0), "level.depth: got 0"),
        (lambda: LevelConfig(64, 1, dropout=1.0), "level.dropout: got 1.0"),
        (lambda: LevelConfig(64, 1, d_ff=0), "level.d_ff: got 0"),
        (lambda: HDiTConfig(), "levels: got ()"),
        (lambda: dataclasses.replace(FFHQ256, patch_size=0), "patch_size: got 0"),
        (lambda: dataclasses.replace(FFHQ256, mapping_width=33), "mapping_width: got 33"),
        (lambda: dataclasses.replace(FFHQ256, num_noise_levels=3), "num_noise_levels: got 3"),
        (lambda: dataclasses.replace(FFHQ256, num_classes=-1), "num_classes: got -1"),
    ],
)
def test_mistakes_in_configurations_are_named(build, field):
    with pytest.raises(UserError, match="^" + re.escape(field)):
        build()
