"""Families of operators: plain settings that say how to draw a random operator."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lavps_jax.errors import UserError
from lavps_jax.operators.blur import Blur, check_kernel_size, gaussian_kernel
from lavps_jax.operators.identity import Identity
from lavps_jax.operators.inpainting import Inpainting
from lavps_jax.operators.motion import motion_kernel
from lavps_jax.operators.super_resolution import SuperResolution
from lavps_jax.types import PRNGKey

__all__ = [
    "CentreBox",
    "Denoise",
    "GaussianBlur",
    "MotionBlur",
    "OperatorFamily",
    "RandomBox",
    "RandomPixels",
    "SuperResolve",
]

# Every family has `draw(rng_key, x_shape)`, pure and free of shapes that depend on the draw: all
# draws of one family have one tree structure, so `jax.vmap` over keys gives a stack of operators.


@dataclasses.dataclass(frozen=True)
class RandomBox:
    """A box at a random place is missing; height and width are drawn separately."""

    min_fraction: float = 0.4
    """Shortest side of the box, as a fraction of the side of the image, in (0, 1)."""
    max_fraction: float = 0.6
    """Longest side of the box, as a fraction of the side of the image, in (0, 1)."""

    def __post_init__(self):
        _check_range("min_fraction", self.min_fraction, "max_fraction", self.max_fraction)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """Sides are uniform integers, the corner is uniform over where the box fits."""
        key_rows, key_columns = jax.random.split(rng_key)
        rows = self._interval(key_rows, x_shape[0])
        columns = self._interval(key_columns, x_shape[1])
        return Inpainting(_hole(rows, columns), x_shape=tuple(x_shape))

    def _interval(self, rng_key: PRNGKey, length: int) -> Float[Array, " length"]:
        key_side, key_start = jax.random.split(rng_key)
        shortest = max(1, _part(self.min_fraction, length))
        longest = max(shortest, _part(self.max_fraction, length))
        side = jax.random.randint(key_side, (), shortest, longest + 1)
        start = jax.random.randint(key_start, (), 0, length - side + 1)
        return _inside(start, side, length)


@dataclasses.dataclass(frozen=True)
class CentreBox:
    """A box at the centre is missing; always the same."""

    fraction: float = 0.5
    """Side of the box as a fraction of the side of the image, in (0, 1)."""

    def __post_init__(self):
        _check_range("fraction", self.fraction, "fraction", self.fraction)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """The same mask for every key."""
        sides = [max(1, _part(self.fraction, length)) for length in x_shape[:2]]
        rows, columns = (
            _inside(length // 2 - side // 2, side, length)
            for length, side in zip(x_shape[:2], sides, strict=True)
        )
        return Inpainting(_hole(rows, columns), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class RandomPixels:
    """Most pixels are missing at random; a pixel is seen in all channels or in none."""

    min_observed: float = 0.15
    """Smallest probability that a pixel is observed, in (0, 1)."""
    max_observed: float = 0.2
    """Largest probability that a pixel is observed, in (0, 1)."""

    def __post_init__(self):
        _check_range("min_observed", self.min_observed, "max_observed", self.max_observed)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """One probability per mask, uniform in the range; at least one pixel is observed."""
        key_probability, key_pixels = jax.random.split(rng_key)
        probability = jax.random.uniform(
            key_probability, (), minval=self.min_observed, maxval=self.max_observed
        )
        level = jax.random.uniform(key_pixels, (*x_shape[:2], 1))
        mask = level <= jnp.maximum(probability, jnp.min(level))
        return Inpainting(mask.astype(jnp.float32), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class SuperResolve:
    """The image is seen at a lower resolution; always the same."""

    factor: int = 4
    """Side of the averaged blocks in pixels; must divide the image."""

    def __post_init__(self):
        if self.factor < 2:
            raise UserError("factor", self.factor, "give an integer of at least 2")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> SuperResolution:
        """The same operator for every key."""
        return SuperResolution(self.factor, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class MotionBlur:
    """Blur by a random camera path, a new one for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    intensity: float = 0.9
    """Shakiness of the path: 0 is a straight line, 1 the most tangled."""

    def __post_init__(self):
        check_kernel_size(self.size)
        if not 0 <= self.intensity <= 1:
            raise UserError("intensity", self.intensity, "give a number in [0, 1]")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur:
        """A fresh kernel; see `motion_kernel`."""
        return Blur(motion_kernel(rng_key, self.size, self.intensity), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """Blur by a Gaussian; always the same."""

    size: int = 61
    """Side of the kernel in pixels, odd."""
    std: float = 3.0
    """Standard deviation of the Gaussian in pixels."""

    def __post_init__(self):
        check_kernel_size(self.size)
        if not self.std > 0:
            raise UserError("std", self.std, "give a positive number of pixels")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Blur:
        """The same kernel for every key."""
        return Blur(gaussian_kernel(self.size, self.std), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class Denoise:
    """The whole image is seen, with noise."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Identity:
        """The same operator for every key."""
        return Identity(x_shape=tuple(x_shape))


OperatorFamily = (
    RandomBox | CentreBox | RandomPixels | SuperResolve | MotionBlur | GaussianBlur | Denoise
)


def _check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    for name, value in ((low_name, low), (high_name, high)):
        if not 0 < value < 1:
            raise UserError(name, value, "give a number above 0 and below 1")
    if low > high:
        raise UserError(low_name, low, f"give at most {high_name} = {high}")


def _part(fraction: float, length: int) -> int:
    # The small term keeps, say, 0.29 * 100 at 29 although its float is a little below.
    return int(fraction * length + 1e-6)


def _inside(
    start: int | Int[Array, ""], side: int | Int[Array, ""], length: int
) -> Float[Array, " length"]:
    position = jnp.arange(length)
    return ((position >= start) & (position < start + side)).astype(jnp.float32)


def _hole(rows: Float[Array, " H"], columns: Float[Array, " W"]) -> Float[Array, "H W 1"]:
    return 1.0 - rows[:, None, None] * columns[None, :, None]
