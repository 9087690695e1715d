"""The exact denoiser of a mixture of Gaussians."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import Denoiser


class GaussianMixture(Denoiser):
    """The prior p(x_0) = sum_k exp(log_weights[k]) N(means[k], diag std^2), over any one shape.

    Component k has x_t ~ N(a means[k], diag v) with a = sqrt(alpha_bar), v = a^2 std^2 + 1 - a^2,
    and given k, E[x_0 | x_t] = means[k] + a std^2 / v (x_t - a means[k]).

    Attributes:
      means: float (K, ...).
      log_weights: float (K,), normalised.
      std: standard deviations, the same for every component, float () or the shape of x_0.
    """

    means: Array
    log_weights: Float[Array, " K"]
    std: Array

    def __call__(self, x_t, t, label=None):
        """E[x_0 | x_t], of the shape of x_t (any); 0 <= t <= T."""
        alpha_bar = jnp.asarray(self.schedule.alpha_bar, x_t.dtype)[t]
        noise_variance = jnp.asarray(1 - self.schedule.alpha_bar, x_t.dtype)[t]
        std = jnp.broadcast_to(self.std, x_t.shape)[None]
        variance = alpha_bar * std**2 + noise_variance
        error = x_t[None] - jnp.sqrt(alpha_bar) * self.means
        square = jnp.sum(error**2 / variance, axis=range(1, error.ndim))
        posterior = jax.nn.softmax(self.log_weights - square / 2)
        per_component = self.means + jnp.sqrt(alpha_bar) * std**2 / variance * error
        # Means may be large beside std: the shorter products of accelerators would lose it.
        return jnp.tensordot(posterior, per_component, axes=1, precision=jax.lax.Precision.HIGHEST)
