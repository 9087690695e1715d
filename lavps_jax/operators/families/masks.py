"""Families of inpainting operators: which pixels are missing."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lavps_jax.data.files import read_mask
from lavps_jax.errors import UserError, check_choices
from lavps_jax.operators.families.base import Family
from lavps_jax.operators.inpainting import Inpainting
from lavps_jax.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class RandomBox(Family):
    """A box at a random place is missing; height and width are drawn separately."""

    min_fraction: float = 0.4
    """Shortest side of the box, as a fraction of the side of the image, in (0, 1)."""
    max_fraction: float = 0.6
    """Longest side of the box, as a fraction of the side of the image, in (0, 1)."""

    def __post_init__(self):
        _check_range("min_fraction", self.min_fraction, "max_fraction", self.max_fraction)

    def includes(self, other: Family) -> bool:
        return isinstance(other, RandomBox) and (
            self.min_fraction <= other.min_fraction and other.max_fraction <= self.max_fraction
        )

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
class CentreBox(Family):
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
class RandomPixels(Family):
    """Most pixels are missing at random; a pixel is seen in all channels or in none."""

    min_observed: float = 0.15
    """Smallest probability that a pixel is observed, in (0, 1)."""
    max_observed: float = 0.2
    """Largest probability that a pixel is observed, in (0, 1)."""

    def __post_init__(self):
        _check_range("min_observed", self.min_observed, "max_observed", self.max_observed)

    def includes(self, other: Family) -> bool:
        return isinstance(other, RandomPixels) and (
            self.min_observed <= other.min_observed and other.max_observed <= self.max_observed
        )

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """One probability per mask, uniform in the range; at least one pixel is observed, and one
        is missing."""
        key_probability, key_pixels = jax.random.split(rng_key)
        probability = jax.random.uniform(
            key_probability, (), minval=self.min_observed, maxval=self.max_observed
        )
        level = jax.random.uniform(key_pixels, (*x_shape[:2], 1))
        mask = (level <= probability) & (level < jnp.max(level)) | (level == jnp.min(level))
        return Inpainting(mask.astype(jnp.float32), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class HalfImage(Family):
    """Half of the image is missing; always the same half."""

    missing: Literal["left", "right", "top", "bottom"] = "right"
    """Which half; the middle row or column of an odd side is seen."""

    def __post_init__(self):
        check_choices(self)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """The same mask for every key."""
        axis = 0 if self.missing in ("top", "bottom") else 1
        half = x_shape[axis] // 2
        start = 0 if self.missing in ("top", "left") else x_shape[axis] - half
        lines = [jnp.ones(length) for length in x_shape[:2]]
        lines[axis] = _inside(start, half, x_shape[axis])
        return Inpainting(_hole(*lines), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class Outpainting(Family):
    """Only a box at the centre is seen and the image is expanded around it; always the same."""

    fraction: float = 0.5
    """Side of the box as a fraction of the side of the image, in (0, 1)."""

    def __post_init__(self):
        _check_range("fraction", self.fraction, "fraction", self.fraction)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """The same mask for every key."""
        inside = CentreBox(self.fraction).draw(rng_key, x_shape)
        return Inpainting(1 - inside.mask, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class MaskFile(Family):
    """The pixels that are missing are black in a picture, a free-form mask; always the same."""

    path: str = ""
    """PNG or other image file of the size of the images, see `lavps_jax.data.files.read_mask`:
    white where a pixel is seen, black or transparent where it is missing."""
    rescale: bool = False
    """Bring a picture of another size to that of the images; each pixel is that of the picture at
    its place."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Inpainting:
        """The same mask for every key.

        Raises:
          UserError: if there is no such picture, it has another size, or it leaves no pixel or all.
        """
        if not self.path:
            raise UserError("operator.path", "nothing", "give an image file of the mask")
        mask = read_mask(self.path, "operator.path")
        if self.rescale:
            pairs = zip(x_shape[:2], mask.shape, strict=True)
            mask = mask[np.ix_(*(np.arange(n) * m // n for n, m in pairs))]
        if mask.shape != tuple(x_shape[:2]):
            found = f"{self.path} of {mask.shape[0]}x{mask.shape[1]} pixels"
            raise UserError("operator.path", found, f"give {x_shape[0]}x{x_shape[1]} (H x W)")
        if not mask.any():
            remedy = "paint white what is seen"
            raise UserError("operator.path", f"{self.path} without a white pixel", remedy)
        if mask.all():
            remedy = "paint black what is missing, or restore whole images with operator:identity"
            raise UserError("operator.path", f"{self.path} without a black pixel", remedy)
        return Inpainting(jnp.asarray(mask[..., None], jnp.float32), x_shape=tuple(x_shape))


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
