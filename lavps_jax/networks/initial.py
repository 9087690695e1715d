"""Random initial weights."""

from __future__ import annotations

import math

import jax
from jaxtyping import Array, PRNGKeyArray


def normal(rng_key: PRNGKeyArray, shape: tuple[int, ...], std: float = 1.0) -> Array:
    """Draws independent N(0, std^2) weights of the default float type.

    The draw is rounded up to a power of two and cut: outside of jit every new shape of a random
    draw is compiled, which would take most of the time of building a network.
    """
    size = math.prod(shape)
    draw = std * jax.random.normal(rng_key, (2 ** math.ceil(math.log2(max(size, 1))),))
    return jax.lax.slice_in_dim(draw, 0, size).reshape(shape)
