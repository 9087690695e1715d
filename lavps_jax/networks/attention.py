"""Cosine-similarity attention on a grid of tokens: global, or in a window around each token."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.networks.precision import widened

__all__ = [
    "axial_positions",
    "axial_rotation",
    "global_attention",
    "neighbourhood_attention",
    "rotate",
    "rotary_frequencies",
]

_MAX_DENSE_TOKENS = 256
"""Up to this many tokens one masked product over the whole grid costs least."""
_TILE = 8
"""Side of a block of queries on larger grids; with windows of 5 to 7 about a third of the
products of a block fall inside its windows, and the block is still a good matrix size."""


def axial_positions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the cells of a grid whose longer side spans [-1, 1].

    Returns:
      Row positions, float64 (height,), and column positions, float64 (width,). A grid merged 2 x 2
      has the means of these positions, which are again the centres of its own cells.
    """
    longer = max(height, width)
    rows = (2 * np.arange(height) + 1 - height) / longer
    columns = (2 * np.arange(width) + 1 - width) / longer
    return rows, columns


def rotary_frequencies(num_heads: int, head_size: int) -> np.ndarray:
    """Angular frequencies of every head, float64 (num_heads, head_size // 8).

    An even grid of logarithms from log(pi) to log(10 pi), end excluded, dealt to the heads in turn.
    """
    per_head = head_size // 8
    exponents = math.log(math.pi) + math.log(10.0) * np.arange(num_heads * per_head) / (
        num_heads * per_head
    )
    return np.exp(exponents).reshape(per_head, num_heads).T


def axial_rotation(
    height: int, width: int, num_heads: int, head_size: int, dtype: jnp.dtype
) -> tuple[Float[Array, "H W N R"], Float[Array, "H W N R"]]:
    """Cosines and sines of the rotary angles, R = head_size // 4 per head.

    The first half of the R angles belongs to the row, the second half to the column.
    """
    frequencies = rotary_frequencies(num_heads, head_size)
    rows, columns = axial_positions(height, width)
    half = (height, width, num_heads, head_size // 8)

    def table(function) -> Array:
        # Only one axis at a time is tabulated on the host: the constants stay small.
        by_row = jnp.asarray(function(rows[:, None, None, None] * frequencies), dtype)
        by_column = jnp.asarray(function(columns[None, :, None, None] * frequencies), dtype)
        return jnp.concatenate(
            [jnp.broadcast_to(by_row, half), jnp.broadcast_to(by_column, half)], axis=-1
        )

    return table(np.cos), table(np.sin)


def rotate(
    x: Float[Array, "H W N D"], cosine: Float[Array, "H W N R"], sine: Float[Array, "H W N R"]
) -> Float[Array, "H W N D"]:
    """Rotates feature i with feature i + R by the angle i, for the first 2 R of D features."""
    size = cosine.shape[-1]
    a, b, rest = x[..., :size], x[..., size : 2 * size], x[..., 2 * size :]
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)


def global_attention(
    q: Float[Array, "H W N D"], k: Float[Array, "S H W N D"], v: Float[Array, "S H W N D"]
) -> Float[Array, "H W N D"]:
    """Every token attends to every token; logits are plain inner products of q and k.

    All S sets of keys and values share one softmax.
    """
    height, width, num_heads, head_size = q.shape
    q, k, v = (x.reshape(-1, num_heads, head_size) for x in (q, k, v))
    logits = widened(jnp.einsum("qnd,knd->nqk", q, k))
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("nqk,knd->qnd", weights, v).reshape(height, width, num_heads, head_size)


def neighbourhood_attention(
    q: Float[Array, "H W N D"],
    k: Float[Array, "S H W N D"],
    v: Float[Array, "S H W N D"],
    kernel_size: int,
    *,
    tile: tuple[int, int] | None = None,
) -> Float[Array, "H W N D"]:
    """Every token attends to the kernel_size x kernel_size window around it.

    Near a border the window is shifted inward, as in NATTEN: along each axis of length L it
    starts at clip(i - kernel_size // 2, 0, L - kernel_size), so it always holds kernel_size keys.

    The grid of queries is cut into tiles. The keys a tile can see form one rectangle, so a tile is
    one dense product with the keys outside the windows masked.

    Args:
      q: queries, float (H, W, heads, head size).
      k, v: keys and values, float (S, H, W, heads, head size), S sets that share one softmax;
        logits are q . k.
      kernel_size: side of the window, 1 <= kernel_size <= min(H, W).
      tile: rows and columns of queries handled together; None picks by the size of the grid.

    Returns:
      Weighted means of the values, float (H, W, heads, head size).

    Raises:
      UserError: if the window is larger than the grid.

    Cost: H W (tile + kernel_size - 1)^2 head-size products for the logits, and as many for the
      values; memory for H W (tile + kernel_size - 1)^2 logits per head.

    References: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143.
    """
    height, width, _, _ = q.shape
    if kernel_size > min(height, width):
        raise UserError(
            "kernel_size",
            kernel_size,
            f"use at most the {height} x {width} tokens of this level, or larger images",
        )
    if tile is None:
        dense = height * width <= _MAX_DENSE_TOKENS
        tile = (height, width) if dense else (_TILE, _TILE)
    query_rows, key_rows, row_mask = _cut(height, tile[0], kernel_size)
    query_columns, key_columns, column_mask = _cut(width, tile[1], kernel_size)

    q = _windows(_windows(q, query_rows, axis=0), query_columns, axis=2)
    k, v = (_windows(_windows(x, key_rows, axis=1), key_columns, axis=3) for x in (k, v))
    # Axes: a, b = tile row and column; q, p = query row and column; s, t = key row and column;
    # j = set of keys.
    logits = widened(jnp.einsum("aqbpnd,jasbtnd->abnqpjst", q, k))
    rows, columns = row_mask[:, None, :, None, :, None], column_mask[None, :, None, :, None, :]
    mask = rows & columns  # a, b, q, p, s, t
    logits = jnp.where(mask[:, :, None, :, :, None], logits, -jnp.inf)
    shape = logits.shape
    weights = jax.nn.softmax(logits.reshape(*shape[:5], -1), axis=-1)
    weights = weights.reshape(shape).astype(v.dtype)
    out = jnp.einsum("abnqpjst,jasbtnd->aqbpnd", weights, v)
    num_a, size_q, num_b, size_p, num_heads, head_size = out.shape
    out = out.reshape(num_a * size_q, num_b * size_p, num_heads, head_size)
    return out[:height, :width]


def _cut(
    length: int, tile: int, kernel_size: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], np.ndarray]:
    """Plans the tiles of one axis.

    Returns:
      The (start, stop) of the queries of every tile, of the keys it can see, and the mask
      bool (tiles, queries, keys) of the keys in the window of each query. Queries past the end
      (the last tile is padded) get the window of the last token, so no row is fully masked.
    """
    num_tiles = -(-length // tile)
    tile = -(-length // num_tiles)
    span = min(length, tile + kernel_size - 1)
    first = tile * np.arange(num_tiles)
    first_key = np.clip(first - kernel_size // 2, 0, length - span)
    query = np.minimum(first[:, None] + np.arange(tile)[None, :], length - 1)
    window = np.clip(query - kernel_size // 2, 0, length - kernel_size)[:, :, None]
    key = (first_key[:, None] + np.arange(span)[None, :])[:, None, :]
    mask = (key >= window) & (key < window + kernel_size)
    queries = [(int(i), int(i) + tile) for i in first]
    keys = [(int(i), int(i) + span) for i in first_key]
    return queries, keys, mask


def _windows(x: Array, windows: list[tuple[int, int]], axis: int) -> Array:
    """Replaces `axis` by two axes, (window, position); past the end the windows hold zeros.

    Static slices rather than a gather: their transpose is a sum of padded arrays, where that of a
    gather is a scatter, which is slow on a CPU.
    """
    length = x.shape[axis]
    if windows == [(0, length)]:
        return jnp.expand_dims(x, axis)
    missing = windows[-1][1] - length
    if missing > 0:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    parts = [jax.lax.slice_in_dim(x, start, stop, axis=axis) for start, stop in windows]
    return jnp.stack(parts, axis=axis)
