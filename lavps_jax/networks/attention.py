"""Cosine-similarity attention on a grid of tokens: global, or in a window around each token."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.networks.precision import widened

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

    The grid is cut into tiles. The keys that the queries of a tile can see are those of the tile
    and of a strip around it, so that a tile is one dense product with the keys outside of the
    windows masked. All tiles and heads are one batch of matrices: the compiler for TPUs lays out
    products of more axes badly, and searches long for it.

    Args:
      q: queries, float (H, W, heads, head size).
      k, v: keys and values, float (S, H, W, heads, head size), S sets that share one softmax;
        logits are q . k.
      kernel_size: side of the window, 1 <= kernel_size <= min(H, W).
      tile: rows and columns of queries that are handled together, at least; None picks by the
        size of the grid.

    Returns:
      Weighted means of the values, float (H, W, heads, head size).

    Raises:
      UserError: if the window is larger than the grid.

    Cost: H W (tile + kernel_size - 1)^2 head-size products for the logits, and as many for the
      values, and memory for H W (tile + kernel_size - 1)^2 logits per head.

    References: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143.
    """
    height, width, num_heads, head_size = q.shape
    if kernel_size > min(height, width):
        raise UserError(
            "kernel_size",
            kernel_size,
            f"use at most the {height} x {width} tokens of this level, or larger images",
        )
    if tile is None:
        dense = height * width <= _MAX_DENSE_TOKENS
        tile = (height, width) if dense else (_TILE, _TILE)
    size_q, row_strip, row_mask = _cut(height, tile[0], kernel_size)
    size_p, column_strip, column_mask = _cut(width, tile[1], kernel_size)
    num_a, num_b = len(row_mask), len(column_mask)

    # Axes: a, b = row and column of a tile; q, p = row and column of a query in it; s, t = row and
    # column of a key; n = head; j = set of keys.
    q = _tiles(_tiles(q, size_q, axis=0), size_p, axis=2)
    k, v = (_tiles(_tiles(x, size_q, row_strip, axis=1), size_p, column_strip, axis=3)
            for x in (k, v))  # fmt: skip
    q = jnp.einsum("aqbpnd->abnqpd", q).reshape(-1, size_q * size_p, head_size)
    k, v = (jnp.einsum("jasbtnd->abnjstd", x).reshape(len(q), -1, head_size) for x in (k, v))
    mask = row_mask[:, None, :, None, :, None] & column_mask[None, :, None, :, None, :]
    mask = mask.reshape(num_a * num_b, 1, size_q * size_p, 1, -1)
    logits = widened(jnp.einsum("mqd,mkd->mqk", q, k))
    of_sets = logits.reshape(len(mask), num_heads, size_q * size_p, -1, mask.shape[-1])
    logits = jnp.where(mask, of_sets, -jnp.inf).reshape(logits.shape)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    out = jnp.einsum("mqk,mkd->mqd", weights, v)
    out = out.reshape(num_a, num_b, num_heads, size_q, size_p, head_size)
    out = jnp.einsum("abnqpd->aqbpnd", out)
    return out.reshape(num_a * size_q, num_b * size_p, num_heads, head_size)[:height, :width]


def _cut(length: int, tile: int, kernel_size: int) -> tuple[int, int, np.ndarray]:
    """Plans the tiles of one axis.

    Returns:
      The length of a tile, that of the strip of keys before and behind it, at most as long, and the
      mask bool (tiles, queries, keys) of the keys in the window of each query. Queries past the end
      (the last tile is padded) get the window of the last token, so no row is fully masked.
    """
    tile = -(-length // max(1, length // max(tile, kernel_size - 1)))
    num_tiles = -(-length // tile)
    in_last = length - (num_tiles - 1) * tile
    # Windows at the ends are shifted inward: by more than half of them where a tile is short.
    strip = max(kernel_size // 2, kernel_size - in_last) if num_tiles > 1 else 0
    first = tile * np.arange(num_tiles)[:, None]
    query = np.minimum(first + np.arange(tile), length - 1)
    window = np.clip(query - kernel_size // 2, 0, length - kernel_size)[:, :, None]
    key = (first - strip + np.arange(tile + 2 * strip))[:, None, :]
    return tile, strip, (key >= window) & (key < window + kernel_size)


def _tiles(x: Array, tile: int, strip: int = 0, *, axis: int) -> Array:
    """Replaces `axis` by two axes, (tile, position in it and in the strips around it), with zeros
    past the ends.

    The strips are slices of the tiles beside it: their transpose is a sum of padded arrays, where
    that of a gather is a scatter, which is slow on a CPU.
    """
    num_tiles = -(-x.shape[axis] // tile)
    missing = num_tiles * tile - x.shape[axis]
    if missing:
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], num_tiles, tile, *x.shape[axis + 1 :])
    if not strip:
        return x
    before = jax.lax.slice_in_dim(x, tile - strip, tile, axis=axis + 1)
    behind = jax.lax.slice_in_dim(x, 0, strip, axis=axis + 1)
    nothing = jnp.zeros_like(jax.lax.slice_in_dim(before, 0, 1, axis=axis))
    before = jax.lax.slice_in_dim(before, 0, num_tiles - 1, axis=axis)
    behind = jax.lax.slice_in_dim(behind, 1, num_tiles, axis=axis)
    before = jnp.concatenate([nothing, before], axis)
    behind = jnp.concatenate([behind, nothing], axis)
    return jnp.concatenate([before, x, behind], axis + 1)
