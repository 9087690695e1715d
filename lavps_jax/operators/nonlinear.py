"""Non-linear measurements: Fourier magnitudes, a limited range, grey levels, blur of light."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError, check_positive
from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.pytrees import static


class FourierMagnitude(MeasurementOperator):
    """Phase retrieval: y = |F pad(u)| for every channel, u = (x + 1) / 2 in [0, 1].

    The image is surrounded with zeros and the Fourier transform F is orthonormal. Images that are
    shifted or turned by half a turn have the same magnitudes: a solution is one of several.
    Setting: Chung et al., "Diffusion Posterior Sampling", ICLR 2023, arXiv:2209.14687,
    with u for x.

    Attributes:
      padding: black pixels (above and below, left and right), static.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the padding is negative.
    """

    padding: tuple[int, int] = static()

    def __post_init__(self):
        super().__post_init__()
        if min(self.padding) < 0:
            raise UserError("padding", self.padding, "give 0 or more pixels")

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        rows, columns = ((border, border) for border in self.padding)
        padded = jnp.pad((x + 1) / 2, (rows, columns, (0, 0)))
        spectrum = jnp.fft.fft2(padded, axes=(0, 1), norm="ortho")
        square = spectrum.real**2 + spectrum.imag**2
        # Not jnp.abs: its derivative at zero is not a number.
        positive = square > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


class Clipping(MeasurementOperator):
    """High dynamic range: y = clip(gain * x, -1, 1). What is too bright or too dark is lost.

    Attributes:
      gain: float (), positive.
      x_shape: shape (H, W, C) of the image, static.
    """

    gain: Float[Array, ""]

    def check(self) -> None:
        check_positive("gain", float(self.gain))

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return jnp.clip(self.gain * x, -1, 1)

    def estimate(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return y / self.gain


class ToneCurve(MeasurementOperator):
    """y = 2 q(u^gamma) - 1 with u = (x + 1) / 2 and q rounding to 2^bits grey levels.

    u is kept in [0, 1]. Below 1e-3 the curve is straight, so that its derivative is finite for
    every gamma; rounding lets gradients through (`round_through`).

    Attributes:
      gamma: exponent, float (), positive.
      bits: per channel, static.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if bits is not in 1 ... 16.
    """

    gamma: Float[Array, ""]
    bits: int = static()

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.bits <= 16:
            raise UserError("bits", self.bits, "give a whole number from 1 to 16")

    def check(self) -> None:
        check_positive("gamma", float(self.gamma))

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        levels, low = 2**self.bits - 1, 1e-3
        u = jnp.clip((x + 1) / 2, 0, 1)
        dark = u < low
        curved = jnp.where(dark, u * low ** (self.gamma - 1), jnp.where(dark, low, u) ** self.gamma)
        return 2 * round_through(curved * levels) / levels - 1

    def estimate(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return 2 * jnp.clip((y + 1) / 2, 0, 1) ** (1 / self.gamma) - 1


class LightBlur(MeasurementOperator):
    """Non-linear blur: light is blurred, and pixels are its sRGB code values.

    y = 2 g(B g^-1((x + 1) / 2)) - 1 with g the sRGB transfer function of IEC 61966-2-1 and B a
    linear operator such as a blur. Values outside [0, 1] follow the straight part of g below it.

    Attributes:
      blur: B, from images to images.
      x_shape: shape (H, W, C) of the image, static.
    """

    blur: LinearOperator

    def check(self) -> None:
        self.blur.check()

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        light = _to_light((x + 1) / 2)
        return 2 * _to_code(self.blur.forward(light)) - 1

    def estimate(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        light = self.blur.ridge(_to_light((y + 1) / 2), weight)
        return 2 * _to_code(light) - 1


def round_through(values: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounds to whole numbers; the derivative is that of the identity.

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons for
    Conditional Computation", 2013, arXiv:1308.3432 (straight-through estimator).
    """
    return values + jax.lax.stop_gradient(jnp.round(values) - values)


def _to_light(code: Array) -> Array:
    """Inverse of `_to_code`; both branches are finite everywhere, so are their derivatives."""
    bright = code > 0.04045
    curved = ((jnp.where(bright, code, 1.0) + 0.055) / 1.055) ** 2.4
    return jnp.where(bright, curved, code / 12.92)


def _to_code(light: Array) -> Array:
    bright = light > 0.0031308
    curved = 1.055 * jnp.where(bright, light, 1.0) ** (1 / 2.4) - 0.055
    return jnp.where(bright, curved, 12.92 * light)
