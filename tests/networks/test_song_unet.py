from __future__ import annotations

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.networks import SongUNetConfig, split
from lavps_jax.networks.convolution import GroupNorm, smoothly_doubled, smoothly_halved

TINY = SongUNetConfig(
    "ncsn++",
    model_channels=4,
    block_channels=(8,),
    attention=(True,),
    layers_per_block=1,
    dropout=0.3,
    num_classes=3,
)
TWO_LEVELS = dataclasses.replace(TINY, block_channels=(8, 12), attention=(True, False))


def test_smooth_filters_are_those_of_the_definition():
    x = np.random.default_rng(0).normal(size=(6, 10, 2)).astype(np.float32)
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    expected = np.array(
        [
            [np.tensordot(taps, padded[i : i + 4, j : j + 4], 2) for j in range(0, 10, 2)]
            for i in range(0, 6, 2)
        ]
    )
    np.testing.assert_allclose(smoothly_halved(x), expected, atol=1e-6)
    # Doubling is the transpose, times four.
    y = np.random.default_rng(1).normal(size=(3, 5, 2)).astype(np.float32)
    doubled = smoothly_doubled(jnp.asarray(y))
    assert doubled.shape == x.shape
    np.testing.assert_allclose(np.vdot(x, doubled), 4 * np.vdot(expected, y), rtol=1e-5)


def test_classes_dropout_and_the_null_class(perturb):
    model, weights = split(TINY.build(nnx.Rngs(0)))
    assert not weights["conv_out"]["kernel"][...].any()  # Fresh networks return zero.
    weights = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (3, 4, 3))
    noise, labels = jnp.array([0.3]), jnp.eye(3)
    plain = model(weights, x, noise, label=labels[0])
    assert np.abs(plain).max() > 0.1
    for other in (
        model(weights, x, noise, label=labels[1]),
        model(weights, x, noise + 0.1, label=labels[0]),
        model(weights, x, noise, label=labels[0], dropout_key=jax.random.key(0)),
    ):
        assert np.abs(other - plain).max() > 1e-3
    null = model(weights, x, noise, label=jnp.zeros(3))
    np.testing.assert_allclose(null, model(weights, x, noise), atol=1e-5)


def test_a_group_has_at_least_four_channels_and_a_norm_at_most_32_groups():
    config = dataclasses.replace(TWO_LEVELS, model_channels=64, block_channels=(64, 128))
    network = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    norms = [one for _, one in nnx.iter_modules(network) if isinstance(one, GroupNorm)]
    found = {norm.scale.shape[0]: norm.num_groups for norm in norms}
    assert found == {64: 16, 128: 32, 192: 32, 256: 32}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "adm"}, "architecture: got 'adm'"),
        ({"attention": (True,)}, "attention: got (True,)"),
        ({"block_channels": (8, 10)}, "model_channels, block_channels: got (4, 8, 10)"),
        ({"block_channels": (8, 64)}, "model_channels, block_channels: got (4, 8, 64)"),
        ({"layers_per_block": 0}, "layers_per_block: got 0"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"num_classes": -1}, "num_classes: got -1"),
    ],
)
def test_mistakes_in_configurations_are_named(changes, field):
    with pytest.raises(UserError, match="^" + re.escape(field)):
        dataclasses.replace(TWO_LEVELS, **changes)


def test_inputs_that_do_not_fit_are_named():
    model, weights = split(nnx.eval_shape(lambda: TWO_LEVELS.build(nnx.Rngs(0))))
    with pytest.raises(UserError, match="image size: got 8 x 7; .*multiples of 2"):
        jax.eval_shape(model, weights, jnp.zeros((8, 7, 3)), jnp.zeros(1))
    with pytest.raises(UserError, match="noise_levels"):
        jax.eval_shape(model, weights, jnp.zeros((8, 8, 3)), jnp.zeros(2))
