"""Noise other than Gaussian, and an estimate of how strong Gaussian noise is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import Node
from lavps_jax.types import PRNGKey

__all__ = ["CustomNoise", "Noise", "PoissonNoise", "estimate_sigma_y", "from_log_likelihood"]

LogLikelihoodFn = Callable[[Any, Array, Array], Float[Array, ""]]


class Noise(Node):
    """What turns a noiseless measurement A(x_0) into y; leaves are data, and stack."""

    def log_likelihood(self, y: Array, prediction: Array) -> Float[Array, ""]:
        """log l(y | A(x_0) = prediction) up to a constant, float (), in nats."""
        raise NotImplementedError


class PoissonNoise(Noise):
    """Counted photons: k ~ Poisson(peak * (A(x_0) + 1) / 2), given as y = 2 k / peak - 1.

    So y is in the units of images; of a pixel with -1 no photon is expected, of one with 1 `peak`
    of them. Below a tenth of a photon the expected number goes to zero exponentially instead of
    below it, so that every image has a finite likelihood and gradient.

    Attributes:
      peak: photons of a white pixel, float (), positive.
    """

    peak: Float[Array, ""]

    def rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Expected photons, positive."""
        return jnp.exp(self.log_rate(prediction))

    def log_rate(self, prediction: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Its logarithm, which is straight below a tenth of a photon."""
        least = 0.1
        rate = self.peak * (prediction + 1) / 2
        faint = rate < least
        bright = jnp.log(jnp.where(faint, least, rate))
        return jnp.where(faint, jnp.log(least) + rate / least - 1, bright)

    def log_likelihood(self, y, prediction) -> Float[Array, ""]:
        """Minus half the deviance, sum k log(rate / k) - (rate - k): zero where rate = k."""
        count, log_rate = self._count(y), self.log_rate(prediction)
        log_count = jnp.log(jnp.where(count > 0, count, 1.0))
        return jnp.sum(count * (log_rate - log_count) - (jnp.exp(log_rate) - count))

    def draw(self, rng_key: PRNGKey, prediction: Float[Array, "*shape"]) -> Array:
        """A noisy measurement."""
        count = jax.random.poisson(rng_key, self.rate(prediction)).astype(prediction.dtype)
        return 2 * count / self.peak - 1

    def chi2(self, y: Float[Array, "*shape"], prediction: Float[Array, "*shape"]) -> Array:
        """Pearson's sum (k - rate)^2 / rate, float (): near the number of entries for the truth."""
        rate = self.rate(prediction)
        return jnp.sum((self._count(y) - rate) ** 2 / rate)

    def typical_std(self, y: Float[Array, "*shape"]) -> Float[Array, ""]:
        """Standard deviation of an average entry of y, float (): a scale for start values."""
        count = jnp.maximum(jnp.mean(self._count(y)), 1.0)
        return 2 * jnp.sqrt(count) / self.peak

    def _count(self, y: Array) -> Array:
        return jnp.maximum(self.peak * (y + 1) / 2, 0.0)


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


def estimate_sigma_y(y: Float[np.ndarray, "H W C"]) -> float:
    """Standard deviation of white Gaussian noise in an image, in its units.

    Median of the finest diagonal Haar details over .6745, the robust estimate of Donoho and
    Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 1994. Detail of the image
    itself counts as noise: of sharp and small images it is too large. Blocks with a pixel at -1 or
    1, where noise may have been clipped, are left out.

    Raises:
      UserError: if y is no image, or fewer than 16 blocks are left.
    """
    y = np.asarray(y)
    if y.ndim != 3 or np.iscomplexobj(y):
        remedy = "give a number: only the noise of images can be estimated"
        raise UserError("sigma_y", f"estimate, y {y.dtype} {y.shape}", remedy)
    height, width = (length // 2 * 2 for length in y.shape[:2])
    a, b, c, d = (y[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    inside = np.all([np.abs(one) < 1 for one in (a, b, c, d)], axis=0)
    detail = ((a - b - c + d) / 2)[inside]
    sigma_y = float(np.median(np.abs(detail)) / 0.6745) if detail.size >= 16 else 0.0
    if not sigma_y > 0:
        remedy = "give a number: too few pixels are neither black nor white"
        raise UserError("sigma_y", "estimate", remedy)
    return sigma_y
