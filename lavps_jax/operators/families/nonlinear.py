"""Families of non-linear operators."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from lavps_jax.errors import UserError
from lavps_jax.operators import jpeg, nonlinear
from lavps_jax.operators.families.base import Family, Setting, check_bounds, drawn
from lavps_jax.operators.families.blurs import MotionBlur
from lavps_jax.operators.nonlinear import Clipping, FourierMagnitude, LightBlur
from lavps_jax.types import PRNGKey


@dataclasses.dataclass(frozen=True)
class PhaseRetrieval(Family):
    """Only magnitudes of the Fourier transform are seen; always the same."""

    oversampling: float = 2.0
    """Side of the transform over the side of the image, for both sides, at least 1."""

    def __post_init__(self):
        if not 1 <= self.oversampling <= 8:
            raise UserError("oversampling", self.oversampling, "give a number from 1 to 8")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> FourierMagnitude:
        """The same operator for every key."""
        padding = (self._padding(x_shape[0]), self._padding(x_shape[1]))
        return FourierMagnitude(padding, x_shape=tuple(x_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The one image that padding makes as large as the measurement."""
        if len(y_shape) != 3:
            return None
        sides = [
            [n for n in range(1, side + 1) if n + 2 * self._padding(n) == side]
            for side in y_shape[:2]
        ]
        if not all(sides):
            return None
        return sides[0][0], sides[1][0], y_shape[2]

    def _padding(self, length: int) -> int:
        """Pixels on both ends: never less than what was asked for."""
        return math.ceil((self.oversampling - 1) * length / 2 - 1e-6)


@dataclasses.dataclass(frozen=True)
class HighDynamicRange(Family):
    """The image is too bright and too dark for the sensor."""

    gain: Setting = 2.0
    """By how much contrast is too high, at least 1; or a range."""

    def __post_init__(self):
        check_bounds("gain", self.gain, 1, 1e3)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Clipping:
        """The same operator for every key, unless the gain is a range."""
        gain = jnp.asarray(drawn(rng_key, self.gain), jnp.float32)
        return Clipping(gain, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class JPEG(Family):
    """The image was stored as JPEG."""

    quality: int | tuple[int, int] = 10
    """Of libjpeg, 1 to 100; or a range."""
    halve_colour: bool = True
    """Colour at half the resolution (4:2:0), the default of most programs."""

    def __post_init__(self):
        check_bounds("quality", self.quality, 1, 100)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> jpeg.JPEG:
        """The same operator for every key, unless the quality is a range."""
        quality = jnp.round(jnp.asarray(drawn(rng_key, self.quality), jnp.float32))
        return jpeg.JPEG(quality, self.halve_colour, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class ToneCurve(Family):
    """A tone curve and few grey levels."""

    gamma: Setting = 1.5
    """Exponent of the curve, 0.01 to 100; or a range."""
    bits: int = 3
    """Per channel, 1 to 16."""

    def __post_init__(self):
        check_bounds("gamma", self.gamma, 0.01, 100)
        if not 1 <= self.bits <= 16:
            raise UserError("bits", self.bits, "give a whole number from 1 to 16")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> nonlinear.ToneCurve:
        """The same operator for every key, unless gamma is a range."""
        gamma = jnp.asarray(drawn(rng_key, self.gamma), jnp.float32)
        return nonlinear.ToneCurve(gamma, self.bits, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class NonlinearBlur(Family):
    """Light is blurred by a random camera path before it becomes pixels, new for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    intensity: Setting = 0.9
    """Shakiness of the path: 0 is a straight line, 1 the most tangled; or a range."""

    def __post_init__(self):
        MotionBlur(self.size, self.intensity)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> LightBlur:
        """A fresh kernel; see `motion_kernel`."""
        blur = MotionBlur(self.size, self.intensity).draw(rng_key, x_shape)
        return LightBlur(blur, x_shape=tuple(x_shape))
