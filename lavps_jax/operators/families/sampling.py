"""Families that see the whole image with less detail: in pixels, colours or frequencies."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.errors import UserError, check_choices
from lavps_jax.operators import identity, super_resolution
from lavps_jax.operators.colour import Brightness
from lavps_jax.operators.families.base import Family
from lavps_jax.operators.fourier import FourierSampling
from lavps_jax.operators.hadamard import ScrambledHadamard
from lavps_jax.operators.separable import Separable, bicubic_matrix, factor
from lavps_jax.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class SuperResolution(Family):
    """The image is seen at a lower resolution; always the same."""

    factor: int = 4
    """Side of the averaged blocks in pixels; must divide the image."""

    def __post_init__(self):
        if self.factor < 2:
            raise UserError("factor", self.factor, "give an integer of at least 2")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> super_resolution.SuperResolution:
        """The same operator for every key."""
        return super_resolution.SuperResolution(self.factor, x_shape=tuple(x_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return _enlarged(y_shape, self.factor)


@dataclasses.dataclass(frozen=True)
class SuperResolutionBicubic(Family):
    """The image is seen at a lower resolution, by bicubic interpolation; always the same."""

    factor: int = 4
    """How many times smaller each side is; must divide the image."""

    def __post_init__(self):
        if self.factor < 2:
            raise UserError("factor", self.factor, "give an integer of at least 2")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Separable:
        """The same operator for every key."""
        rows, columns = (factor(bicubic_matrix(n, self.factor)) for n in x_shape[:2])
        return Separable(rows, columns, x_shape=tuple(x_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return _enlarged(y_shape, self.factor)


@dataclasses.dataclass(frozen=True)
class Colorization(Family):
    """Only the brightness of a colour image is seen; always the same."""

    weights: Literal["mean", "luma"] = "mean"
    """Equal weights of the channels, or those of brightness in ITU-R BT.601."""

    def __post_init__(self):
        check_choices(self)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Brightness:
        """The same operator for every key."""
        if x_shape[-1] != 3:
            raise UserError("channels of the images", x_shape[-1], "give colour images")
        weights = {"mean": (1 / 3, 1 / 3, 1 / 3), "luma": (0.299, 0.587, 0.114)}[self.weights]
        return Brightness(jnp.asarray(weights), x_shape=tuple(x_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return (*y_shape[:2], 3) if len(y_shape) == 3 else None


@dataclasses.dataclass(frozen=True)
class CompressedSensing(Family):
    """Few random combinations of all pixels are seen, new ones for every draw."""

    fraction: float = 0.25
    """Number of measurements over the number of pixels, in (0, 1]."""

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise UserError("fraction", self.fraction, "give a number above 0 and at most 1")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> ScrambledHadamard:
        """Order of the pixels and choice of the coefficients are uniform."""
        num_pixels = x_shape[0] * x_shape[1]
        key_order, key_rows = jax.random.split(rng_key)
        count = max(1, round(self.fraction * num_pixels))
        return ScrambledHadamard(
            jax.random.permutation(key_order, num_pixels),
            jax.random.permutation(key_rows, num_pixels)[:count],
            x_shape=tuple(x_shape),
        )

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Combinations of pixels do not tell it."""
        return None


@dataclasses.dataclass(frozen=True)
class FourierLines(Family):
    """Some columns of the Fourier transform are seen, as in an accelerated MRI scan."""

    acceleration: float = 4.0
    """Number of columns over the number of those that are seen, at least 1."""
    centre_fraction: float = 0.08
    """Share of the columns, those of the lowest frequencies, that are always seen, in [0, 1]."""

    def __post_init__(self):
        if not 1 <= self.acceleration:
            raise UserError("acceleration", self.acceleration, "give a number of at least 1")
        if not 0 <= self.centre_fraction <= 1 / self.acceleration:
            remedy = f"give 0 to 1 / acceleration = {1 / self.acceleration:g}"
            raise UserError("centre_fraction", self.centre_fraction, remedy)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> FourierSampling:
        """The columns beside the centre are drawn uniformly, a fixed number of them."""
        height, width, _ = x_shape
        count = max(1, round(width / self.acceleration))
        centre = round(self.centre_fraction * width)
        distance = np.abs(np.fft.fftfreq(width))
        is_centre = np.zeros(width)
        is_centre[np.argsort(distance, kind="stable")[:centre]] = 1
        # The centre comes first, the others in random order.
        level = jax.random.uniform(rng_key, (width,)) - is_centre
        seen = jnp.argsort(jnp.argsort(level)) < count
        mask = jnp.broadcast_to(seen[None, :, None], (height, width, 1))
        return FourierSampling(mask.astype(jnp.float32), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class Identity(Family):
    """The whole image is seen, with noise."""

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> identity.Identity:
        """The same operator for every key."""
        return identity.Identity(x_shape=tuple(x_shape))


def _enlarged(y_shape: tuple[int, ...], factor: int) -> tuple[int, ...] | None:
    if len(y_shape) != 3:
        return None
    return y_shape[0] * factor, y_shape[1] * factor, y_shape[2]
