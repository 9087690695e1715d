from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.networks.attention import (
    _cut,
    axial_positions,
    axial_rotation,
    global_attention,
    neighbourhood_attention,
    rotary_frequencies,
    rotate,
)


def random_qkv(height: int, width: int, num_sets: int = 1, num_heads: int = 2, head_size: int = 8):
    """q, k, v with `num_sets` sets of keys and values."""
    shape = (2 * num_sets + 1, height, width, num_heads, head_size)
    qkv = 1.5 * np.random.default_rng(0).standard_normal(shape)
    return qkv[0], qkv[1 : 1 + num_sets], qkv[1 + num_sets :]


def slow_neighbourhood(q, k, v, kernel_size):
    height, width, num_heads, _ = q.shape
    out = np.zeros(q.shape)
    for i in range(height):
        for j in range(width):
            a = min(max(i - kernel_size // 2, 0), height - kernel_size)
            b = min(max(j - kernel_size // 2, 0), width - kernel_size)
            for n in range(num_heads):
                window = (slice(None), slice(a, a + kernel_size), slice(b, b + kernel_size), n)
                keys = k[window].reshape(-1, k.shape[-1])
                values = v[window].reshape(-1, v.shape[-1])
                weights = np.exp(keys.astype(np.float64) @ q[i, j, n])
                out[i, j, n] = weights @ values / weights.sum()
    return out


@pytest.mark.parametrize("tile", [None, (4, 3), (3, 8), (1, 2)])
@pytest.mark.parametrize(
    "size,kernel_size,num_sets",
    [((7, 10), 5, 1), ((7, 10), 7, 1), ((7, 10), 5, 2), ((9, 13), 3, 1), ((13, 8), 1, 2)],
)
def test_neighbourhood_attention_matches_loops(size, tile, kernel_size, num_sets):
    q, k, v = random_qkv(*size, num_sets)
    with jax.enable_x64(True):
        arrays = map(jnp.asarray, (q, k, v))
        out = jax.jit(neighbourhood_attention, static_argnums=(3,), static_argnames="tile")(
            *arrays, kernel_size, tile=tile
        )
    np.testing.assert_allclose(out, slow_neighbourhood(q, k, v, kernel_size), atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (24, 17), (17, 27)])
def test_default_tiles_equal_dense_with_gradients(size):
    def loss(qkv, tile):
        out = neighbourhood_attention(*qkv, 5, tile=tile)
        return jnp.sum(jnp.sin(out)), out

    evaluate = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    with jax.enable_x64(True):
        qkv = jax.tree.map(jnp.asarray, random_qkv(*size))
        (_, tiled), tiled_gradient = evaluate(qkv, None)
        (_, dense), dense_gradient = evaluate(qkv, size)
    np.testing.assert_allclose(tiled, dense, atol=1e-12)
    for one, other in zip(tiled_gradient, dense_gradient, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("num_sets", [1, 2])
def test_window_of_the_whole_grid_is_global(num_sets):
    with jax.enable_x64(True):
        q, k, v = map(jnp.asarray, random_qkv(5, 5, num_sets))
        np.testing.assert_allclose(
            neighbourhood_attention(q, k, v, 5), global_attention(q, k, v), atol=1e-12
        )


def test_too_large_window_is_refused():
    q, k, v = map(jnp.asarray, random_qkv(8, 4))
    with pytest.raises(UserError, match="kernel_size: got 5.*8 x 4"):
        neighbourhood_attention(q, k, v, 5)


def test_merged_positions_are_means():
    rows, columns = axial_positions(8, 12)
    merged_rows, merged_columns = axial_positions(4, 6)
    np.testing.assert_allclose(merged_rows, rows.reshape(4, 2).mean(1), atol=1e-12)
    np.testing.assert_allclose(merged_columns, columns.reshape(6, 2).mean(1), atol=1e-12)
    np.testing.assert_allclose(columns[[0, -1]], [-11 / 12, 11 / 12])
    np.testing.assert_allclose(rows[[0, -1]], [-7 / 12, 7 / 12])


def test_frequencies_deal_heads_fastest():
    frequencies = rotary_frequencies(3, 16)
    assert frequencies.shape == (3, 2)
    np.testing.assert_allclose(frequencies.T.ravel()[0], np.pi)
    ratios = frequencies.T.ravel()[1:] / frequencies.T.ravel()[:-1]
    np.testing.assert_allclose(ratios, 10 ** (1 / 6))


def test_rotated_products_depend_on_relative_position_only():
    vectors = np.random.default_rng(1).standard_normal((2, 2, 16)).astype(np.float32)
    q, k = (jnp.broadcast_to(v, (6, 6, 2, 16)) for v in vectors)
    cosine, sine = axial_rotation(6, 6, 2, 16, jnp.float32)
    q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
    product = jnp.sum(q[1, 1] * k[3, 2], axis=-1)
    np.testing.assert_allclose(jnp.sum(q[3, 4] * k[5, 5], axis=-1), product, atol=1e-5)
    assert np.abs(jnp.sum(q[3, 4] * k[5, 4], axis=-1) - product).min() > 1e-2
    np.testing.assert_array_equal(q[..., 8:], jnp.broadcast_to(vectors[0], q.shape)[..., 8:])


def test_strips_hold_every_window():
    """On any axis: each query of every tile sees a whole window, and strips fit into a tile."""
    for length in range(1, 40):
        for kernel_size in range(1, min(length, 12) + 1):
            for tile in (1, 4, 8):
                size, strip, mask = _cut(length, tile, kernel_size)
                assert size <= length and strip <= size
                assert (len(mask) - 1) * size < length <= len(mask) * size
                np.testing.assert_array_equal(mask.sum(-1), kernel_size)
                key = size * np.arange(len(mask))[:, None] - strip + np.arange(mask.shape[-1])
                seen = np.where(mask, key[:, None], length // 2)
                assert seen.min() >= 0 and seen.max() < length
