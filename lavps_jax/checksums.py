"""Sums by which a damaged array is told, the same for every way of spreading it over devices."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

__all__ = ["checksums"]


@jax.jit
def checksums(arrays: Mapping[str, Array]) -> UInt32[Array, " N"]:
    """sum_i (2 i + 1) w_i modulo 2^32 over the words w_i of every array, uint32 (N,).

    Words are the bits of the entries, at most 32 at a time. The weights are odd, so that a change
    of a single bit always changes the sum; any other change goes unseen once in 2^32. Integers add
    up in any order: the sums do not depend on how an array is sharded.

    Args:
      arrays: of any dtype, by name; the sums are in the order of the sorted names.
    """
    return jnp.stack([_checksum(arrays[name]) for name in sorted(arrays)])


def _checksum(array: Array) -> UInt32[Array, ""]:
    array = jnp.asarray(array)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    if jnp.iscomplexobj(array):
        array = jnp.stack([array.real, array.imag])
    bits = min(32, 8 * array.dtype.itemsize)
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
    position, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += jnp.uint32(stride % 2**32) * index
        stride *= words.shape[axis]
    return jnp.sum((2 * position + 1) * words, dtype=jnp.uint32)
