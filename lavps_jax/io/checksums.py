"""Sums by which damaged or exchanged arrays are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt32


def checksums(arrays: Mapping[str, Any]) -> UInt32[np.ndarray, " N"]:
    """sum_i (2 i + 1) w_i modulo 2^32 over the words w_i of every array, uint32 (N,), on the host.

    Words are the bits of the entries, at most 32 at a time. The weights are odd, so that a change
    of a single bit always changes the sum; any other change goes unseen once in 2^32. How an array
    is spread over devices does not matter.

    Args:
      arrays: of any dtype, by name; the sums are in the order of the sorted names. Of arrays that
        are spread over several processes each adds up its own part, so all of them have to call.
    """
    sorted_arrays = [jnp.asarray(arrays[name]) for name in sorted(arrays)]
    sums = np.array([_local_sum(array) for array in sorted_arrays], np.uint32)
    if all(array.is_fully_addressable for array in sorted_arrays):
        return sums
    everywhere = np.asarray(multihost_utils.process_allgather(sums))
    return np.asarray(everywhere.sum(0, dtype=np.uint32))


def _local_sum(array: jax.Array) -> np.uint32:
    """The sum over the pieces that lie here, each of them once."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    places = np.arange(array.size, dtype=np.uint32).reshape(array.shape)
    sums = [np.uint32(0)]
    for piece in array.addressable_shards:
        if piece.replica_id == 0:
            entries = np.ascontiguousarray(piece.data).reshape(-1, 1)
            words = entries.view(f"u{min(4, entries.itemsize)}").astype(np.uint32, copy=False)
            count = words.shape[1]
            index = count * places[piece.index].reshape(-1, 1) + np.arange(count, dtype=np.uint32)
            sums.append(np.sum(words * (2 * index + 1), dtype=np.uint32))
    return np.sum(sums, dtype=np.uint32)
