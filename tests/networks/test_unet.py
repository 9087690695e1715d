from __future__ import annotations

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.networks import UNetConfig, split
from lavps_jax.networks.unet_layers import timestep_embedding

TINY = UNetConfig(
    block_channels=(4, 8),
    attention=(True, False),
    layers_per_block=1,
    head_size=4,
    norm_num_groups=2,
    dropout=0.3,
)


def named(weights) -> dict[str, np.ndarray]:
    return {
        ".".join(str(part) for part in path): np.asarray(variable[...])
        for path, variable in nnx.to_flat_state(weights)
    }


def reference(config: UNetConfig, w: dict, x: jax.Array, time: float) -> jax.Array:
    """The network of Ho et al. written from the names of its weights, with XLA's convolutions."""

    def conv(name, x, stride=1, padding=(1, 1)):
        return jax.lax.conv_general_dilated(
            x[None],
            w[f"{name}.kernel"],
            (stride, stride),
            (padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )[0] + w[f"{name}.bias"].reshape(1, 1, -1)

    def linear(name, x):
        return x @ w[f"{name}.kernel"] + w[f"{name}.bias"].reshape((1,) * (x.ndim - 1) + (-1,))

    def norm(name, x):
        group = x.reshape(-1, config.norm_num_groups, x.shape[-1] // config.norm_num_groups)
        mean, variance = (f(group, axis=(0, 2), keepdims=True) for f in (jnp.mean, jnp.var))
        out = ((group - mean) / jnp.sqrt(variance + config.norm_eps)).reshape(x.shape)
        scale, bias = (w[f"{name}.{part}"].reshape(1, 1, -1) for part in ("scale", "bias"))
        return out * scale + bias

    def silu(x):
        return x / (1 + jnp.exp(-x))

    def resnet(name, x):
        h = conv(f"{name}.conv1", silu(norm(f"{name}.norm1", x)))
        h = h + linear(f"{name}.time_emb_proj", silu(temb))[None, None]
        h = conv(f"{name}.conv2", silu(norm(f"{name}.norm2", h)))
        short = f"{name}.conv_shortcut"
        return h + (conv(short, x, padding=(0, 0)) if f"{short}.kernel" in w else x)

    def attend(name, x):
        if f"{name}.group_norm.scale" not in w:
            return x
        h = norm(f"{name}.group_norm", x).reshape(-1, x.shape[-1])
        q, k, v = (linear(f"{name}.to_{part}", h) for part in "qkv")
        heads = []
        size = config.head_size or x.shape[-1] // config.num_heads
        for i in range(0, x.shape[-1], size):
            head = slice(i, i + size)
            logits = q[:, head] @ k[:, head].T / math.sqrt(size)
            heads.append(jax.nn.softmax(logits, axis=-1) @ v[:, head])
        return x + linear(f"{name}.to_out.0", jnp.concatenate(heads, axis=-1)).reshape(x.shape)

    half = config.block_channels[0] // 2
    angles = time * 10000.0 ** (-np.arange(half) / (half - config.freq_shift))
    sincos = np.concatenate([np.sin(angles), np.cos(angles)])
    temb = linear("time_embedding.linear_1", jnp.float32(sincos))
    temb = linear("time_embedding.linear_2", silu(temb))

    num_levels = len(config.block_channels)
    x = conv("conv_in", x)
    skips = [x]
    for i in range(num_levels):
        for j in range(config.layers_per_block):
            x = resnet(f"down_blocks.{i}.resnets.{j}", x)
            x = attend(f"down_blocks.{i}.attentions.{j}", x)
            skips.append(x)
        if i < num_levels - 1:
            padding = (1, 1) if config.downsample_padding else (0, 1)
            x = conv(f"down_blocks.{i}.downsamplers.0.conv", x, 2, padding)
            skips.append(x)
    x = resnet("mid_block.resnets.0", x)
    x = attend("mid_block.attentions.0", x)
    x = resnet("mid_block.resnets.1", x)
    for i in range(num_levels):
        for j in range(config.layers_per_block + 1):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = resnet(f"up_blocks.{i}.resnets.{j}", x)
            x = attend(f"up_blocks.{i}.attentions.{j}", x)
        if i < num_levels - 1:
            x = x.repeat(2, 0).repeat(2, 1)
            x = conv(f"up_blocks.{i}.upsamplers.0.conv", x)
    return conv("conv_out", silu(norm("conv_norm_out", x)))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 2, "downsample_padding": 0},
        {"block_channels": (4, 8, 12), "attention": (False, True, False), "head_size": None,
         "num_heads": 2},
    ],
)  # fmt: skip
def test_network_equals_a_plain_one(perturb, changes):
    config = dataclasses.replace(TINY, **changes)
    pure_model, weights = split(config.build(nnx.Rngs(0)))
    weights = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (8, 12, 3))
    out = jax.jit(pure_model)(weights, x, jnp.array([0.35]))
    expected = jax.jit(lambda w, x: reference(config, w, x, 350.0))(named(weights), x)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=2e-5)


def test_cosines_can_come_first():
    time = jnp.float32(7.0)
    plain = timestep_embedding(time, 8, flip_sin_to_cos=False, freq_shift=0.0)
    flipped = timestep_embedding(time, 8, flip_sin_to_cos=True, freq_shift=0.0)
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    np.testing.assert_allclose(plain[:4], np.sin(7 * frequencies), atol=1e-6)
    np.testing.assert_array_equal(flipped, jnp.concatenate([plain[4:], plain[:4]]))


def test_classes_second_noise_level_and_dropout(perturb):
    config = dataclasses.replace(TINY, num_classes=3, num_noise_levels=2)
    pure_model, weights = split(config.build(nnx.Rngs(0)))
    fresh_second = named(weights)["time_embedding_s.linear_2.kernel"]
    np.testing.assert_array_equal(fresh_second, np.zeros_like(fresh_second))
    weights = perturb(weights)
    x = jax.random.normal(jax.random.key(0), (8, 8, 3))

    @jax.jit
    def evaluate(noise_levels, label, key):
        plain = pure_model(weights, x, noise_levels, label=label)
        return plain, pure_model(weights, x, noise_levels, label=label, dropout_key=key)

    key, labels = jax.random.key(0), jnp.eye(3)
    plain, dropped = evaluate(jnp.array([0.3, 0.1]), labels[0], key)
    assert np.abs(plain - dropped).max() > 1e-2
    for other in (
        evaluate(jnp.array([0.5, 0.1]), labels[0], key)[0],
        evaluate(jnp.array([0.3, 0.2]), labels[0], key)[0],
        evaluate(jnp.array([0.3, 0.1]), labels[1], key)[0],
    ):
        assert np.abs(other - plain).max() > 1e-3
    null = evaluate(jnp.array([0.3, 0.1]), jnp.zeros(3), key)[0]
    without = jax.jit(pure_model)(weights, x, jnp.array([0.3, 0.1]))
    np.testing.assert_allclose(null, without, rtol=1e-4, atol=1e-5)


def test_without_a_null_class_a_class_must_be_given():
    config = dataclasses.replace(TINY, num_classes=3, null_class=False)
    pure_model, weights = split(nnx.eval_shape(lambda: config.build(nnx.Rngs(0))))
    assert weights["class_embedding"]["weight"].shape == (3, 16)
    with pytest.raises(UserError, match="label: got None; give one"):
        jax.eval_shape(pure_model, weights, jnp.ones((8, 8, 3)), jnp.array([0.3]))


def test_fresh_network_returns_zero_with_finite_gradient():
    pure_model, weights = split(TINY.build(nnx.Rngs(0)))

    def loss(weights, x):
        out = pure_model(weights, x, jnp.array([0.3]))
        return jnp.sum((out - 1.0) ** 2), out

    gradient, out = jax.jit(jax.grad(loss, has_aux=True))(weights, jnp.zeros((8, 8, 3)))
    np.testing.assert_array_equal(out, np.zeros((8, 8, 3)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.abs(gradient["conv_out"]["kernel"][...]).max() > 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"attention": (True,)}, "attention: got (True,)"),
        ({"block_channels": (4, 9)}, "block_channels: got (4, 9)"),
        ({"head_size": 5}, "head_size: got 5"),
        ({"head_size": None, "num_heads": 3}, "num_heads: got 3"),
        ({"num_heads": 0}, "num_heads: got 0"),
        ({"downsample_padding": 2}, "downsample_padding: got 2"),
        ({"freq_shift": 2.0}, "freq_shift: got 2.0"),
        ({"layers_per_block": 0}, "layers_per_block: got 0"),
        ({"dropout": -0.1}, "dropout: got -0.1"),
        ({"norm_eps": 0.0}, "norm_eps: got 0.0"),
        ({"time_conditioning": "multiply"}, "time_conditioning: got 'multiply'"),
        ({"resample": "mean"}, "resample: got 'mean'"),
    ],
)
def test_mistakes_in_configurations_are_named(changes, field):
    with pytest.raises(UserError, match="^" + re.escape(field)):
        dataclasses.replace(TINY, **changes)


def test_size_must_fit_the_levels():
    model = TINY.build(nnx.Rngs(0))
    with pytest.raises(UserError, match="image size: got 8 x 7; .*multiples of 2"):
        model(jnp.zeros((8, 7, 3)), jnp.zeros(1))
