"""Sums by which damaged or exchanged arrays are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

__all__ = ["checksums"]


def checksums(arrays: Mapping[str, Any]) -> UInt32[np.ndarray, " N"]:
    """sum_i (2 i + 1) w_i modulo 2^32 over the words w_i of every array, uint32 (N,), on the host.

    Words are the bits of the entries, at most 32 at a time. The weights are odd, so that a change
    of a single bit always changes the sum; any other change goes unseen once in 2^32.

    Args:
      arrays: of any dtype, by name, on devices of this process; the sums are in the order of the
        sorted names.
    """
    return np.array([_checksum(arrays[name]) for name in sorted(arrays)], np.uint32)


def _checksum(array: Any) -> np.uint32:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.ascontiguousarray(array)
    size = min(4, array.dtype.itemsize)
    words = array.reshape(-1).view(f"u{size}").astype(np.uint32, copy=False)
    weights = np.arange(1, 2 * words.size, 2, dtype=np.uint32)
    return np.sum(words * weights, dtype=np.uint32)
