"""Sums by which damaged or exchanged arrays are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import UInt32

__all__ = ["checksums"]


def checksums(arrays: Mapping[str, Any]) -> UInt32[np.ndarray, " N"]:
    """sum_i (2 i + 1) w_i modulo 2^32 over the words w_i of every array, uint32 (N,), on the host.

    Words are the bits of the entries, at most 32 at a time. The weights are odd, so that a change
    of a single bit always changes the sum; any other change goes unseen once in 2^32. How an array
    is spread over devices does not matter.

    Args:
      arrays: of any dtype, by name; the sums are in the order of the sorted names. Of arrays that
        are spread over several processes each adds up its own part, so all of them have to call.
    """
    sums = np.array([_local_sum(arrays[name]) for name in sorted(arrays)], np.uint32)
    if all(getattr(array, "is_fully_addressable", True) for array in arrays.values()):
        return sums
    everywhere = np.asarray(multihost_utils.process_allgather(sums))
    return np.asarray(everywhere.sum(0, dtype=np.uint32))


def _local_sum(array: Any) -> np.uint32:
    """The part of this process: all of an array of its own, and each piece once of other ones."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if getattr(array, "is_fully_addressable", True):
        return _sum(np.asarray(array), np.arange(array.size, dtype=np.uint32))
    places = np.arange(array.size, dtype=np.uint32).reshape(array.shape)
    pieces = [one for one in array.addressable_shards if one.replica_id == 0]
    return np.sum([_sum(np.asarray(one.data), places[one.index]) for one in pieces],
                  dtype=np.uint32)  # fmt: skip


def _sum(entries: np.ndarray, places: np.ndarray) -> np.uint32:
    """Of some entries, with their places in the flattened array."""
    entries = np.ascontiguousarray(entries)
    size = min(4, entries.dtype.itemsize)
    words = entries.reshape(-1).view(f"u{size}").astype(np.uint32, copy=False)
    count = entries.dtype.itemsize // size
    index = (count * places.reshape(-1, 1) + np.arange(count, dtype=np.uint32)).reshape(-1)
    return np.sum(words * (2 * index + 1), dtype=np.uint32)
