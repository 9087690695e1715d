"""What is computed in single precision although a network computes in half of it."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def widened(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x in at least float32: sums over many entries lose too many digits in bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def spread(parameter: Float[Array, "*part"], x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The parameter in the shape and dtype of x; its gradient is summed in at least float32."""
    return jnp.broadcast_to(widened(parameter), x.shape).astype(x.dtype)
