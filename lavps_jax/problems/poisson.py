"""The noise of counted photons."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError, check_at_most, check_positive
from lavps_jax.problems.noise import MANY, Noise, photon_noise
from lavps_jax.types import PRNGKey

LARGEST_PEAK = 1e10
"""Photons of a white pixel: their noise, 2e-6, is 17 times the spacing of float32 numbers at 1."""
_FAINT = 0.1
"""Photons below which the logarithm of their expected number is straight."""


class Poisson(Noise):
    """Counted photons: k ~ Poisson(peak * (A(x_0) + 1) / 2), given as y = 2 k / peak - 1.

    So y is in the units of images; of a pixel with -1 no photon is expected, of one with 1 `peak`
    of them. In the likelihood the expected number goes to zero exponentially below a tenth of a
    photon, instead of below it, so that every image has a finite likelihood and gradient.

    Near -1 and 1 neighbouring float32 numbers are 6e-8 and more apart: above `LARGEST_PEAK` the
    rounding of y would be seen beside its noise, which is 2 / sqrt(peak) in a white pixel.

    Attributes:
      peak: photons of a white pixel, float (), positive, at most `LARGEST_PEAK`.
    """

    peak: Any

    def __post_init__(self):
        check_positive("peak", self.peak)
        check_at_most("peak", self.peak, LARGEST_PEAK, "float32 cannot hold the noise of more")

    def check(self, y: Array) -> None:
        """Counts are real."""
        if jnp.iscomplexobj(y):
            raise UserError("y", f"dtype {y.dtype}", "give real measurements for Poisson noise")

    def rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Expected photons, positive."""
        return jnp.exp(self.log_rate(prediction))

    def log_rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Its logarithm, which is straight below a tenth of a photon."""
        rate = self.peak * (prediction + 1) / 2
        faint = rate < _FAINT
        bright = jnp.log(jnp.where(faint, _FAINT, rate))
        return jnp.where(faint, jnp.log(_FAINT) + rate / _FAINT - 1, bright)

    def log_prob(self, y: Array, prediction: Array) -> Float[Array, ""]:
        """Minus half the deviance, sum k log(rate / k) - (rate - k): zero where rate = k."""
        count, log_rate = self._count(y), self.log_rate(prediction)
        some = jnp.where(count > 0, count, 1.0)
        far = count * (log_rate - jnp.log(some)) - (jnp.exp(log_rate) - count)
        # Of many photons both terms are far larger than their difference. In d = (rate - k) / k,
        # of which no digit is lost, it is k (log(1 + d) - d).
        d = self.peak / 2 * (prediction - y) / some
        near = (count > 0) & (jnp.abs(d) < 0.5) & (log_rate > jnp.log(_FAINT))
        return jnp.sum(jnp.where(near, count * _log1p_less(jnp.where(near, d, 0.0)), far))

    def draw(self, rng_key: PRNGKey, prediction: Float[Array, "*shape"]) -> Array:
        """A noisy measurement; no photon comes from a pixel at -1 or below.

        Added to the prediction, their noise is not rounded to the digits of the whole number.
        """
        rate = jnp.maximum(self.peak * (prediction + 1) / 2, 0.0)
        excess = photon_noise(rng_key, rate)
        few = 2 * jnp.round(rate + excess) / self.peak - 1
        return jnp.where(rate < MANY, few, prediction + 2 * excess / self.peak)

    def residual_chi2(self, y: Array, prediction: Array, seen: Array) -> Float[Array, ""]:
        """A counterpart of the chi-square of Gaussian noise, float ().

        N + sqrt(2 N) (T - E) / S for the N entries with seen = 1, so that the truth has the mean
        and the variance of a chi-square with N degrees of freedom. T = sum (k - rate)^2 / m with
        m = max(rate, 1); its mean is E = sum rate / m and its variance S^2 = sum (rate + 2 rate^2)
        / m^2. Pearson's statistic divides by the rate itself: a few dark pixels would decide it.
        """
        rate = self.rate(prediction)
        scale = jnp.maximum(rate, 1.0)
        number = jnp.sum(seen)
        # The difference of y and prediction has more digits left than that of the two counts.
        bright = (self._count(y) > MANY) & (rate > MANY)
        difference = jnp.where(bright, self.peak / 2 * (y - prediction), self._count(y) - rate)
        statistic = jnp.sum(seen * difference**2 / scale)
        mean = jnp.sum(seen * rate / scale)
        variance = jnp.sum(seen * (1 / scale + 2 * rate / scale) * rate / scale)
        std = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
        return number + jnp.sqrt(2 * number) * (statistic - mean) / std

    def typical_std(self, y: Array, seen: Array) -> Float[Array, ""]:
        """Standard deviation of an average entry of y with seen = 1, float (): a scale for starts.

        Of at least one photon in all, so that it is never zero.
        """
        number = jnp.maximum(jnp.sum(seen), 1.0)
        count = jnp.maximum(jnp.sum(seen * self._count(y)), 1.0) / number
        return 2 * jnp.sqrt(count) / self.peak

    def _count(self, y: Array) -> Array:
        return jnp.maximum(self.peak * (y + 1) / 2, 0.0)


def _log1p_less(d: Array) -> Array:
    """log(1 + d) - d for |d| < .5, with all digits where it is small."""
    small = jnp.abs(d) < 0.01
    near, far = jnp.where(small, d, 0.0), jnp.where(small, 0.0, d)
    series = near**2 * (-1 / 2 + near / 3 - near**2 / 4 + near**3 / 5)
    return jnp.where(small, series, jnp.log1p(far) - far)
