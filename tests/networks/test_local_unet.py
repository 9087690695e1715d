"""The local U-Net: what it computes, what it sees of an image, and that any size will do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.errors import UserError
from lavps_jax.networks import AmortizedNetworkConfig, LocalUNetConfig, PureModel, split

SMALL = LocalUNetConfig(
    in_channels=3, out_channels=2, block_channels=(4, 6), noise_features=8, num_noise_levels=1
)
NOISE = jnp.array([0.3])


@pytest.fixture(scope="module")
def network() -> tuple[PureModel, nnx.State]:
    """One whose outputs, scales and second convolutions are not zero."""
    model, weights = split(SMALL.build(nnx.Rngs(0)))
    leaves, treedef = jax.tree.flatten(weights)
    rng = np.random.default_rng(1)
    filled = [jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32) for leaf in leaves]
    return model, jax.tree.unflatten(treedef, filled)


def image(height: int, width: int, seed: int = 2) -> jax.Array:
    draw = np.random.default_rng(seed).normal(size=(height, width, 3))
    return jnp.asarray(draw, jnp.float32)


def convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlation with zeros around x, one pixel after the other."""
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[0] - 2, x.shape[1] - 2
    patches = [x[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(patches, axis=0)


def squares(x: np.ndarray) -> np.ndarray:
    """The pixels of each 2 x 2 square stacked to channels, row by row."""
    corners = [x[i::2, j::2] for i in range(2) for j in range(2)]
    return np.concatenate(corners, axis=-1)


def pixels(x: np.ndarray) -> np.ndarray:
    """The inverse of `squares`."""
    height, width, channels = x.shape
    out = np.empty((2 * height, 2 * width, channels // 4))
    for k, part in enumerate(np.split(x, 4, axis=-1)):
        out[k // 2 :: 2, k % 2 :: 2] = part
    return out


def test_it_computes_what_its_equations_say(network):
    model, weights = network
    x = image(8, 12)
    w = jax.tree.map(np.float64, nnx.to_pure_dict(weights))

    angle = 2 * np.pi * w["fourier"]["weight"] @ np.array([0.3])
    features = np.concatenate([np.cos(angle), np.sin(angle)])
    hidden = features @ w["embedding"]["kernel"] + w["embedding"]["bias"]
    noise = hidden / (1 + np.exp(-hidden))

    def block(x, part):
        scale = 1 + noise @ part["scale"]["kernel"]
        hidden = np.maximum(convolution(x, part["conv1"]["kernel"]) * scale, 0)
        return x + convolution(hidden, part["conv2"]["kernel"])

    outer = convolution(squares(np.float64(x)), w["conv_in"]["kernel"])
    outer = block(outer, w["down_blocks"][0][0])
    inner = block(squares(outer) @ w["halvings"][0]["kernel"], w["down_blocks"][1][0])
    outer = outer + pixels(inner @ w["doublings"][0]["kernel"])
    outer = block(outer, w["up_blocks"][0][0])
    expected = pixels(convolution(outer, w["conv_out"]["kernel"]))
    np.testing.assert_allclose(model(weights, x, NOISE), expected, rtol=1e-4, atol=1e-4)


def test_it_is_homogeneous_where_the_noise_is_fixed(network):
    model, weights = network
    x = image(8, 12)
    np.testing.assert_allclose(
        model(weights, 4 * x, NOISE), 4 * model(weights, x, NOISE), rtol=1e-5
    )


def test_other_noise_gives_another_output(network):
    model, weights = network
    x = image(8, 12)
    first, second = model(weights, x, NOISE), model(weights, x, NOISE + 0.5)
    assert np.abs(first - second).max() > 0.01


def test_images_of_any_size_are_continued_at_the_lower_and_right_edge(network):
    model, weights = network
    x = image(7, 9)
    whole = jnp.pad(x, ((0, 1), (0, 3), (0, 0)), mode="edge")
    found = model(weights, x, NOISE)
    assert found.shape == (7, 9, 2)
    np.testing.assert_array_equal(found, model(weights, whole, NOISE)[:7, :9])


def test_a_part_of_an_image_is_seen_as_in_the_whole_away_from_its_edges(network):
    """Both of its levels see 4 + 4 * 2 squares of 2 x 2 pixels each way, at most."""
    model, weights = network
    x, far = image(80, 96), 28
    whole, part = model(weights, x, NOISE), model(weights, x[:, :72], NOISE)
    np.testing.assert_allclose(part[:, : 72 - far], whole[:, : 72 - far], atol=1e-5)
    shifted = model(weights, x[4:, 8:], NOISE)
    inside = np.s_[far:-far, far:-far]
    np.testing.assert_allclose(shifted[inside], whole[4:, 8:][inside], atol=1e-5)
    assert np.abs(part[:, -4:] - whole[:, 68:72]).max() > 1e-3


def test_it_starts_at_zero_and_every_weight_can_be_trained(network):
    fresh, first = split(SMALL.build(nnx.Rngs(0)))
    x = image(8, 12)
    np.testing.assert_array_equal(fresh(first, x, NOISE), 0)
    model, weights = network
    gradients = jax.grad(lambda w: jnp.sum(model(w, x, NOISE) ** 2))(weights)
    trained = nnx.to_pure_dict(gradients)
    np.testing.assert_array_equal(trained.pop("fourier")["weight"], 0)
    for gradient in jax.tree.leaves(trained):
        assert np.abs(gradient).max() > 0


def test_the_default_has_two_million_weights():
    shapes = nnx.eval_shape(lambda: LocalUNetConfig().build(nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes))) == 2_205_376


def test_it_is_a_backbone_of_amortized_networks():
    config = AmortizedNetworkConfig(LocalUNetConfig(block_channels=(4, 6)), guidance=True)
    model, weights = split(config.build(nnx.Rngs(0)))
    x = image(6, 10)
    mean, log_std = model(weights, x, x, x, 1.0, 0.5, x)
    assert mean.shape == log_std.shape == x.shape


@pytest.mark.parametrize(
    "field,value",
    [
        ("patch_size", 0),
        ("block_channels", ()),
        ("block_channels", (4, 0)),
        ("layers_per_block", 0),
        ("noise_features", 7),
        ("num_noise_levels", 3),
    ],
)
def test_settings_that_make_no_network_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        LocalUNetConfig(**{field: value})
