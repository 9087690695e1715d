"""Random motion-blur kernels: the path of a shaking camera, drawn in pure JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.operators.blur import check_kernel_size
from lavps_jax.types import PRNGKey

NUM_TURNS = 8
"""Number of places along the path where the heading is drawn anew; linear in between."""
TURN_STD = jnp.pi / 2
"""Standard deviation of one change of heading at intensity 1, radians."""
LINE_STD = 0.5
"""Standard deviation of the drawn line across, pixels: 1.2 pixels wide at half its height."""
MIN_RADIUS = 0.6
"""Smallest reach of the path from its centroid, as a fraction of what fits; the largest is 1."""


def motion_kernel(
    rng_key: PRNGKey,
    size: int,
    intensity: float | Float[Array, ""],
    extent: float | Float[Array, ""] = 1.0,
) -> Float[Array, "size size"]:
    """A random camera path as a blur kernel (size, size): non-negative, sum 1, centred.

    The camera moves at constant speed. Its heading is a random walk whose steps have a standard
    deviation of intensity * 90 degrees: a straight line at 0, a tangle at 1. The path is scaled to
    reach a random 60 to 100 % of the way from its centroid (the centre of the canvas) to the
    border, so it spans about 50 to 100 % of the canvas. Pure and without shapes that depend on the
    draw: fresh kernels can be drawn inside a jitted training step, one per image with `jax.vmap`.

    Args:
      size: odd side of the kernel in pixels, static.
      intensity: shakiness in [0, 1], float ().
      extent: what the path is scaled by in the end, in (0, 1], float ().
    Raises:
      UserError: if the size is even.
    """
    check_kernel_size(size)
    key_start, key_turns, key_radius = jax.random.split(rng_key, 3)
    start = jax.random.uniform(key_start, (), maxval=2 * jnp.pi)
    turns = intensity * TURN_STD * jax.random.normal(key_turns, (NUM_TURNS,))
    headings = start + jnp.cumsum(turns)
    # 8 points for each pixel of the side: closer than the line is wide even on a long path.
    place = jnp.linspace(0.0, NUM_TURNS - 1.0, 8 * size)
    heading = jnp.interp(place, jnp.arange(NUM_TURNS, dtype=place.dtype), headings)
    path = jnp.cumsum(jnp.stack([jnp.sin(heading), jnp.cos(heading)], axis=-1), axis=0)
    path = path - jnp.mean(path, axis=0, keepdims=True)

    centre = size // 2
    largest_radius = centre - min(1.0, centre / 2)  # room for the width of the line
    fraction = jax.random.uniform(key_radius, (), minval=MIN_RADIUS, maxval=1.0)
    path = path * (extent * fraction * largest_radius / jnp.max(jnp.abs(path)))

    # Each point of the path leaves a Gaussian spot; spots are separable, so a product sums them.
    grid = jnp.arange(size) - centre
    spots = jnp.exp(-0.5 * ((grid[None, :, None] - path[:, None, :]) / LINE_STD) ** 2)
    kernel = spots[..., 0].T @ spots[..., 1]
    return kernel / jnp.sum(kernel)
