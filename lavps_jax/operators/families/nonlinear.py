"""Families of non-linear operators."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from lavps_jax.errors import UserError
from lavps_jax.operators.families.base import Family
from lavps_jax.operators.families.blurs import MotionBlur
from lavps_jax.operators.jpeg import JPEG
from lavps_jax.operators.nonlinear import Clipping, FourierMagnitude, LightBlur, ToneCurve
from lavps_jax.types import PRNGKey

__all__ = ["Compressed", "HighDynamicRange", "NonlinearBlur", "PhaseRetrieval", "Tone"]


@dataclasses.dataclass(frozen=True)
class PhaseRetrieval(Family):
    """Only magnitudes of the Fourier transform are seen; always the same."""

    oversampling: float = 2.0
    """Side of the transform over the side of the image, at least 1."""

    def __post_init__(self):
        if not 1 <= self.oversampling <= 8:
            raise UserError("oversampling", self.oversampling, "give a number from 1 to 8")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> FourierMagnitude:
        """The same operator for every key."""
        return FourierMagnitude(self._padding(x_shape), x_shape=tuple(x_shape))

    def image_shape(self, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The one image that padding makes as large as the measurement."""
        if len(y_shape) != 3:
            return None
        for padding in range(min(y_shape[:2]) // 2):
            shape = (y_shape[0] - 2 * padding, y_shape[1] - 2 * padding, y_shape[2])
            if self._padding(shape) == padding:
                return shape
        return None

    def _padding(self, x_shape: tuple[int, ...]) -> int:
        return round((self.oversampling - 1) * min(x_shape[:2]) / 2)


@dataclasses.dataclass(frozen=True)
class HighDynamicRange(Family):
    """The image is too bright and too dark for the sensor; always the same."""

    gain: float = 2.0
    """By how much contrast is too high, at least 1."""

    def __post_init__(self):
        if not 1 <= self.gain < float("inf"):
            raise UserError("gain", self.gain, "give a number of at least 1")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> Clipping:
        """The same operator for every key."""
        return Clipping(jnp.asarray(self.gain, jnp.float32), x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class Compressed(Family):
    """The image was stored as JPEG; always the same."""

    quality: int = 10
    """Of libjpeg, 1 to 100."""
    halve_colour: bool = False
    """Colour at half the resolution (4:2:0)."""

    def __post_init__(self):
        if not 1 <= self.quality <= 100:
            raise UserError("quality", self.quality, "give a whole number from 1 to 100")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> JPEG:
        """The same operator for every key."""
        quality = jnp.asarray(self.quality, jnp.float32)
        return JPEG(quality, self.halve_colour, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class Tone(Family):
    """A tone curve and few grey levels; always the same."""

    gamma: float = 1.5
    """Exponent of the curve, positive."""
    bits: int = 3
    """Per channel, 1 to 16."""

    def __post_init__(self):
        if not 0 < self.gamma < float("inf"):
            raise UserError("gamma", self.gamma, "give a positive number")
        if not 1 <= self.bits <= 16:
            raise UserError("bits", self.bits, "give a whole number from 1 to 16")

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> ToneCurve:
        """The same operator for every key."""
        return ToneCurve(jnp.asarray(self.gamma, jnp.float32), self.bits, x_shape=tuple(x_shape))


@dataclasses.dataclass(frozen=True)
class NonlinearBlur(Family):
    """Light is blurred by a random camera path before it becomes pixels, new for every draw."""

    size: int = 21
    """Side of the kernel in pixels, odd."""
    intensity: float = 0.9
    """Shakiness of the path: 0 is a straight line, 1 the most tangled."""

    def __post_init__(self):
        MotionBlur(self.size, self.intensity)

    def draw(self, rng_key: PRNGKey, x_shape: tuple[int, ...]) -> LightBlur:
        """A fresh kernel; see `motion_kernel`."""
        blur = MotionBlur(self.size, self.intensity).draw(rng_key, x_shape)
        return LightBlur(blur, x_shape=tuple(x_shape))
