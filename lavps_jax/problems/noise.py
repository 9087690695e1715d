"""What turns a noiseless measurement A(x_0) into y. Method section 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lavps_jax.errors import UserError, check_at_least, check_positive
from lavps_jax.pytrees import Node, static
from lavps_jax.types import PRNGKey

MANY = 10_000.0
"""Photons from which on whole numbers give way to differences from the mean."""

LogProbFn = Callable[[Any, Array, Array], Float[Array, ""]]


class Noise(Node):
    """A law of y given the noiseless measurement A(x_0), which methods call the prediction.

    Fields are numbers or arrays, the leaves of a pytree. `seen` is an array of y's shape: 1 where
    something was measured, otherwise 0; there y and the prediction are 0 as well.
    """

    def check(self, y: Array) -> None:
        """Raises a UserError if there is no such noise in measurements like y."""

    def draw(self, rng_key: PRNGKey, prediction: Array) -> Array:
        """A noisy measurement, like the prediction."""
        raise UserError("noise", type(self).__name__, "give a noise that can be drawn")

    def log_prob(self, y: Array, prediction: Array) -> Float[Array, ""]:
        """log l(y | A(x_0) = prediction) up to a constant, float (), in nats."""
        raise NotImplementedError

    def residual_chi2(self, y: Array, prediction: Array, seen: Array) -> Float[Array, ""]:
        """A statistic that for the true image has a chi-square law, or its mean and variance, with
        as many degrees of freedom as real numbers were measured, float ()."""
        return -2 * self.log_prob(y, prediction)

    def typical_std(self, y: Array, seen: Array) -> Float[Array, ""]:
        """Standard deviation of an average measured entry of y, float (): where methods take all
        noise as Gaussian, and a scale for starts."""
        raise NotImplementedError


class Gaussian(Noise):
    """Independent noise y = A(x_0) + sigma n, n standard normal; of complex numbers in both parts.

    Attributes:
      sigma: its standard deviation in the units of y: a number, at least 0 (0 only for samplers
        that use no likelihood), or an array of y's shape, a noise map, which is positive; infinity
        means that nothing was measured there.
    """

    sigma: Any

    def __post_init__(self):
        if jnp.ndim(self.sigma) == 0:
            check_at_least("sigma", self.sigma, 0)

    def check(self, y: Array) -> None:
        """A map has the shape of y and holds positive numbers, not all of them infinite."""
        if jnp.ndim(self.sigma) == 0:
            return
        if jnp.shape(self.sigma) != jnp.shape(y):
            remedy = f"give a number, or a map of the shape of y, {jnp.shape(y)}"
            raise UserError("sigma", f"shape {jnp.shape(self.sigma)}", remedy)
        if isinstance(self.sigma, Tracer):
            return
        values = np.asarray(self.sigma)
        if not np.all(values > 0) or not np.any(np.isfinite(values)):
            remedy = "give positive numbers, infinity where nothing was measured"
            raise UserError("sigma", f"a map from {values.min():g} to {values.max():g}", remedy)

    def draw(self, rng_key: PRNGKey, prediction: Array) -> Array:
        noise = standard_normal(rng_key, prediction)
        if jnp.ndim(self.sigma) == 0:
            return prediction + self.sigma * noise
        return jnp.where(jnp.isinf(self.sigma), 0, prediction + self.sigma * noise)

    def log_prob(self, y: Array, prediction: Array) -> Float[Array, ""]:
        """-||(y - prediction) / sigma||^2 / 2."""
        residual = y - prediction
        if jnp.ndim(self.sigma) == 0:
            return -_square(residual) / (2 * self.sigma**2)
        residual = jnp.where(jnp.isinf(self.sigma), 0, residual)  # y may be anything there.
        return -_square(residual / self.sigma) / 2

    def typical_std(self, y: Array, seen: Array) -> Float[Array, ""]:
        """Of a map the root of the harmonic mean of its squares."""
        if jnp.ndim(self.sigma) == 0:
            return jnp.asarray(self.sigma, jnp.result_type(float))
        seen = jnp.where(jnp.isinf(self.sigma), 0, jnp.abs(seen))
        return jnp.sqrt(jnp.sum(seen) / jnp.sum(seen / self.sigma**2))


class PoissonGaussian(Noise):
    """Counted photons and the noise of reading them out, as Gaussian noise of its variance.

    y = offset + gain k + sigma n with k ~ Poisson((A(x_0) - offset) / gain) and n standard normal,
    so that y has the mean A(x_0) and the variance v = gain (A(x_0) - offset) + sigma^2. The
    likelihood is that of N(A(x_0), v): Foi et al., "Practical Poissonian-Gaussian noise modeling
    and fitting for single-image raw-data", IEEE TIP 17(10), 2008.

    Attributes:
      gain: what one photon adds to y, positive.
      offset: y where there is no light; -1 of images in [-1, 1].
      sigma: standard deviation of the noise of reading out, positive.
    """

    gain: Any
    offset: Any = -1.0
    sigma: Any = 0.01

    def __post_init__(self):
        check_positive("gain", self.gain)
        check_positive("sigma", self.sigma)

    def check(self, y: Array) -> None:
        """Counts are real."""
        if jnp.iscomplexobj(y):
            raise UserError("y", f"dtype {y.dtype}", "give real measurements for Poisson noise")

    def variance(self, prediction: Array) -> Array:
        """v, like the prediction; below the offset there is no light."""
        return self.gain * jnp.maximum(prediction - self.offset, 0) + self.sigma**2

    def draw(self, rng_key: PRNGKey, prediction: Array) -> Array:
        key_photons, key_read = jax.random.split(rng_key)
        light = jnp.maximum(prediction - self.offset, 0)
        excess = photon_noise(key_photons, light / self.gain)
        noise = jax.random.normal(key_read, prediction.shape, prediction.dtype)
        return self.offset + light + self.gain * excess + self.sigma * noise

    def log_prob(self, y: Array, prediction: Array) -> Float[Array, ""]:
        variance = self.variance(prediction)
        return -jnp.sum((y - prediction) ** 2 / variance + jnp.log(variance)) / 2

    def residual_chi2(self, y: Array, prediction: Array, seen: Array) -> Float[Array, ""]:
        return jnp.sum(seen * (y - prediction) ** 2 / self.variance(prediction))

    def typical_std(self, y: Array, seen: Array) -> Float[Array, ""]:
        return jnp.sqrt(jnp.sum(seen * self.variance(y)) / jnp.maximum(jnp.sum(seen), 1.0))


class Custom(Noise):
    """Noise given by its log-likelihood; `residual_chi2` is -2 times that.

    Attributes:
      log_prob_fn: (data, y, prediction) -> float (), differentiable in the prediction A(x_0),
        static: use a function defined at module level, it is compared by identity.
      sigma: a typical standard deviation, from which starts are made, positive.
      data: pytree of arrays that the function needs.
    """

    log_prob_fn: LogProbFn = static()
    sigma: Any
    data: Any = ()

    def __post_init__(self):
        check_positive("sigma", self.sigma)

    def log_prob(self, y: Array, prediction: Array) -> Float[Array, ""]:
        return self.log_prob_fn(self.data, y, prediction)

    def typical_std(self, y: Array, seen: Array) -> Float[Array, ""]:
        return jnp.asarray(self.sigma, jnp.result_type(float))


def photon_noise(rng_key: PRNGKey, rate: Float[Array, "*shape"]) -> Array:
    """A number of photons less its mean, `rate`.

    Where more than 10,000 are expected it is sqrt(rate) n + (n^2 - 1) / 6 with n standard normal
    (Cornish and Fisher's expansion, with the skewness of Poisson's law), rounded to whole photons
    while float32 holds them: the acceptance test of `jax.random.poisson` has lost its digits from a
    million on, and its integers end at 2^31.
    """
    few = jax.random.poisson(rng_key, jnp.minimum(rate, MANY)).astype(rate.dtype) - rate
    n = jax.random.normal(jax.random.fold_in(rng_key, 1), rate.shape, rate.dtype)
    excess = jnp.sqrt(rate) * n + (n**2 - 1) / 6
    excess = jnp.where(rate < 2**22, jnp.round(rate + excess) - rate, excess)
    return jnp.where(rate < MANY, few, excess)


def standard_normal(rng_key: PRNGKey, like: Array) -> Array:
    """Independent standard normal numbers of the shape and dtype of `like`, real or complex.

    Both parts of a complex number have variance 1, where JAX draws numbers of variance 1.
    """
    noise = jax.random.normal(rng_key, like.shape, like.dtype)
    return noise * jnp.sqrt(2.0) if jnp.iscomplexobj(like) else noise


def _square(residual: Array) -> Float[Array, ""]:
    """||residual||^2: an inner product adds up with many accumulators, one running float32 sum
    would lose digits."""
    return jnp.vdot(residual, residual, precision=jax.lax.Precision.HIGHEST).real
