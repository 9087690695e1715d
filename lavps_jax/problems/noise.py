"""Noise other than Gaussian, and an estimate of how strong Gaussian noise is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from lavps_jax.errors import UserError
from lavps_jax.pytrees import Node
from lavps_jax.types import PRNGKey

__all__ = [
    "LARGEST_PEAK",
    "CustomNoise",
    "Noise",
    "PoissonNoise",
    "check_real",
    "estimate_sigma_y",
    "from_log_likelihood",
]

LARGEST_PEAK = 1e10
"""Photons of a white pixel: their noise, 2e-6, is 17 times the spacing of float32 numbers at 1."""
_FAINT = 0.1
"""Photons below which the logarithm of their expected number is straight."""
_MANY = 10_000.0
_MOST_STD = 0.4
"""Above it the estimate of clipped values is a tenth too small, and soon far too small."""
"""Photons from which on whole numbers give way to differences from the mean."""

LogLikelihoodFn = Callable[[Any, Array, Array], Float[Array, ""]]


class Noise(Node):
    """What turns a noiseless measurement A(x_0) into y; leaves are data, and stack."""

    def log_likelihood(self, y: Array, prediction: Array) -> Float[Array, ""]:
        """log l(y | A(x_0) = prediction) up to a constant, float (), in nats."""
        raise NotImplementedError


class PoissonNoise(Noise):
    """Counted photons: k ~ Poisson(peak * (A(x_0) + 1) / 2), given as y = 2 k / peak - 1.

    So y is in the units of images; of a pixel with -1 no photon is expected, of one with 1 `peak`
    of them. In the likelihood the expected number goes to zero exponentially below a tenth of a
    photon, instead of below it, so that every image has a finite likelihood and gradient.

    Near -1 and 1 neighbouring float32 numbers are 6e-8 and more apart: above `LARGEST_PEAK` the
    rounding of y would be seen beside its noise, which is 2 / sqrt(peak) in a white pixel.

    Attributes:
      peak: photons of a white pixel, float (), positive, at most `LARGEST_PEAK`.
    """

    peak: Float[Array, ""]

    def rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Expected photons, positive."""
        return jnp.exp(self.log_rate(prediction))

    def log_rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Its logarithm, which is straight below a tenth of a photon."""
        rate = self.peak * (prediction + 1) / 2
        faint = rate < _FAINT
        bright = jnp.log(jnp.where(faint, _FAINT, rate))
        return jnp.where(faint, jnp.log(_FAINT) + rate / _FAINT - 1, bright)

    def log_likelihood(self, y, prediction) -> Float[Array, ""]:
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

        Where more than 10,000 photons are expected, their number less its mean is
        sqrt(rate) n + (n^2 - 1) / 6 with n standard normal (Cornish and Fisher's expansion, with
        the skewness of Poisson's law), rounded to whole photons while float32 holds them: the
        acceptance test of `jax.random.poisson` has lost its digits from a million on, and its
        integers end at 2^31.

        Raises:
          UserError: if the prediction is complex.
        """
        check_real(prediction)
        rate = jnp.maximum(self.peak * (prediction + 1) / 2, 0.0)
        key_normal = jax.random.fold_in(rng_key, 1)
        few = jax.random.poisson(rng_key, jnp.minimum(rate, _MANY)).astype(prediction.dtype)
        n = jax.random.normal(key_normal, rate.shape, rate.dtype)
        excess = jnp.sqrt(rate) * n + (n**2 - 1) / 6
        excess = jnp.where(rate < 2**22, jnp.round(rate + excess) - rate, excess)
        # Added to the prediction, the excess is not rounded to the digits of the whole number.
        many = prediction + 2 * excess / self.peak
        return jnp.where(rate < _MANY, 2 * few / self.peak - 1, many)

    def chi2(
        self,
        y: Float[Array, "*shape"],
        prediction: Float[Array, "*shape"],
        seen: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
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
        bright = (self._count(y) > _MANY) & (rate > _MANY)
        difference = jnp.where(bright, self.peak / 2 * (y - prediction), self._count(y) - rate)
        statistic = jnp.sum(seen * difference**2 / scale)
        mean = jnp.sum(seen * rate / scale)
        variance = jnp.sum(seen * (1 / scale + 2 * rate / scale) * rate / scale)
        std = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
        return number + jnp.sqrt(2 * number) * (statistic - mean) / std

    def typical_std(
        self, y: Float[Array, "*shape"], seen: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
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


def check_real(y: Array) -> None:
    """Raises a UserError if numbers of photons, or what they are expected to be, are complex."""
    if jnp.iscomplexobj(y):
        raise UserError("y", f"dtype {y.dtype}", "give real measurements for Poisson noise")


class CustomNoise(Noise):
    """Noise given by its log-likelihood; build it with `from_log_likelihood`.

    Attributes:
      data: pytree of arrays handed to the function.
      log_likelihood_fn: (data, y, prediction) -> float (), static.
    """

    data: Any
    log_likelihood_fn: LogLikelihoodFn = struct.field(pytree_node=False)

    def log_likelihood(self, y, prediction) -> Float[Array, ""]:
        return self.log_likelihood_fn(self.data, y, prediction)


def from_log_likelihood(log_likelihood_fn: LogLikelihoodFn, data: Any = ()) -> CustomNoise:
    """Noise of one's own, for `make_problem(y, operator, sigma_y, noise)`.

    Args:
      log_likelihood_fn: (data, y, prediction) -> float (), differentiable in the prediction A(x_0).
        Use a function defined at module level: it is compared by identity.
      data: pytree of arrays that the function needs; stackable.
    """
    return CustomNoise(data, log_likelihood_fn)


def estimate_sigma_y(
    y: Float[np.ndarray, "H W C"],
    seen: Bool[np.ndarray, "H W C"] | None = None,
    step: float = 0.0,
) -> float:
    """Standard deviation of white Gaussian noise in an image, in its units.

    Median of the finest diagonal Haar details over .6745, the robust estimate of Donoho and
    Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994. Detail of the image
    itself counts as noise: of sharp and small images it is too large.

    Args:
      y: the image, (H, W, C).
      seen: which of its entries were measured; None is all. Details of others are left out.
      step: distance of neighbouring grey levels in a file of whole numbers; 0 for floats. Rounding
        to levels counts as noise, as it does in the likelihood, and details with a value at -1 or
        1, where noise may have been clipped, are left out.

    Raises:
      UserError: if y is no image, fewer than 16 details are left, no noise is to be seen: what
        rounding alone would give, or so much of it that what was clipped decides.
    """
    y = np.asarray(y)
    if y.ndim != 3 or np.iscomplexobj(y):
        remedy = "give a number: only the noise of images can be estimated"
        raise UserError("sigma_y", f"estimate, y {y.dtype} {y.shape}", remedy)
    usable = np.ones(y.shape, bool) if seen is None else np.asarray(seen, bool)
    if step:
        usable = usable & (np.abs(y) < 1)
    is_clipped = bool(np.any(np.abs(y) >= 1) and np.all(np.abs(y) <= 1))
    # The median of rounded values is one of few numbers; spread over a level, it is none of them.
    y = y + step * np.random.default_rng(0).uniform(-0.5, 0.5, y.shape)
    a, b, c, d = _corners(y)
    detail = ((a - b - c + d) / 2)[np.logical_and.reduce(_corners(usable))]
    if detail.size < 16:
        remedy = "give a number: too few measured pixels lie together and are not clipped"
        raise UserError("sigma_y", "estimate", remedy)
    variance = (np.median(np.abs(detail)) / 0.6745) ** 2 - step**2 / 12
    # What rounding alone gives, of levels or of float32 numbers, and three standard errors of the
    # median's square, which sees that variance twice: with what it was spread by.
    rounding = max(step**2 / 12, 1e-6**2) * (1 + 3 * 2 * 2.33 / np.sqrt(detail.size))
    if not variance > rounding:
        remedy = (
            f"give a number: no noise is to be seen above that of rounding, {rounding**0.5:.2g}"
        )
        raise UserError("sigma_y", "estimate", remedy)
    if is_clipped and variance > _MOST_STD**2:
        remedy = f"give a number: noise above {_MOST_STD:g} cannot be told from clipped pixels"
        raise UserError("sigma_y", f"estimate, {variance**0.5:.2g}", remedy)
    return float(np.sqrt(variance))


def _corners(image: np.ndarray) -> list[np.ndarray]:
    """The four pixels of all blocks of 2 x 2."""
    height, width = (length // 2 * 2 for length in image.shape[:2])
    return [image[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
