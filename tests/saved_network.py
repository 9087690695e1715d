"""A small network whose weights tests save and read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Net(nnx.Module):
    """More than ten layers: as strings their numbers would sort differently."""

    def __init__(self, seed: int, width: int = 4):
        rngs = nnx.Rngs(seed)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(11)])
        self.steps = nnx.Param(jnp.array(7, jnp.int32))


def net_weights(seed: int = 0, width: int = 4) -> nnx.State:
    return nnx.split(Net(seed, width))[1]


def assert_same(found, wanted) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert new.dtype == old.dtype
        np.testing.assert_array_equal(np.asarray(new), np.asarray(old))
