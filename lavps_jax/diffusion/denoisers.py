"""The diffusion prior: denoisers E[x_0 | x_t], noising, bridge draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.tiled import Model
from lavps_jax.types import DenoiseFn, Params, Problem, Weights

__all__ = [
    "SIGMA_DATA",
    "EDMDenoiser",
    "GaussianMixture",
    "GaussianMixtureDenoiser",
    "Preconditioning",
    "add_noise",
    "bridge_draw",
    "denoise",
    "edm_preconditioning",
    "levels",
]

SIGMA_DATA = 0.5
"""Standard deviation of images that the preconditioning assumes (Karras et al. 2022)."""


class Preconditioning(NamedTuple):
    """D(z) = c_skip z + c_out F(c_in z, c_noise), each float ()."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_preconditioning(sigma_t: Float[Array, ""]) -> Preconditioning:
    """Input and output scales of a denoising network at noise level sigma_t.

    Implements table 1 of Karras et al., "Elucidating the Design Space of Diffusion-Based
    Generative Models", NeurIPS 2022, arXiv:2206.00364, with sigma_data = 0.5.
    """
    variance = sigma_t**2 + SIGMA_DATA**2
    return Preconditioning(
        c_skip=SIGMA_DATA**2 / variance,
        c_out=sigma_t * SIGMA_DATA / jnp.sqrt(variance),
        c_in=1 / jnp.sqrt(variance),
        c_noise=jnp.log(sigma_t) / 4,
    )


@dataclass(frozen=True)
class EDMDenoiser:
    """E[x_0 | x_t] from an EDM-preconditioned network; a `DenoiseFn`.

    The network works in the variance-exploding frame z = x_t / sqrt(alpha_bar[t]), where the noise
    has standard deviation sigma_t.

    Attributes:
      model: the raw network F(x (H, W, C), noise_levels (1,)).
      schedule: noise schedule of the times.
    """

    model: Model
    schedule: Schedule = Schedule()

    def at_sigma(
        self,
        theta: Weights,
        z: Float[Array, "H W C"],
        sigma_t: Float[Array, ""],
        label: Float[Array, " K"] | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        """D(z, sigma_t) for z = x_0 + sigma_t eps; label one-hot, None for the null class."""
        c = edm_preconditioning(sigma_t)
        return c.c_skip * z + c.c_out * self.model(
            theta, c.c_in * z, c.c_noise[None], label=label, dropout_key=dropout_key
        )

    def __call__(
        self,
        theta: Weights,
        x_t: Float[Array, "H W C"],
        t: Int[Array, ""],
        label: Float[Array, " K"] | None = None,
    ) -> Float[Array, "H W C"]:
        """E[x_0 | x_t]; x_t float (H, W, C) of unit variance at the last time, 1 <= t <= T."""
        sqrt_alpha_bar, sigma_t = levels(self.schedule, t, x_t.dtype)
        return self.at_sigma(theta, x_t / sqrt_alpha_bar, sigma_t, label)


def denoise(
    denoise_fn: DenoiseFn, params: Params, problem: Problem, x_t: Array, t: Int[Array, ""]
) -> Array:
    """E[x_0 | x_t] of the problem's class, if it has one; of the shape of x_t."""
    if problem.label is None:
        return denoise_fn(params["theta"], x_t, t)
    return denoise_fn(params["theta"], x_t, t, label=problem.label)  # type: ignore[call-arg]


class GaussianMixture(struct.PyTreeNode):
    """p(x_0) = sum_k weights[k] N(means[k], diag std^2) over arrays of any one shape.

    Attributes:
      means: float (K, ...).
      log_weights: float (K,), normalised.
      std: standard deviations, the same for every component, float () or the shape of x_0.
    """

    means: Array
    log_weights: Float[Array, " K"]
    std: Array


@dataclass(frozen=True)
class GaussianMixtureDenoiser:
    """The exact E[x_0 | x_t] of a `GaussianMixture` (its weights theta); a `DenoiseFn`.

    Component k has x_t ~ N(a means[k], diag v) with a = sqrt(alpha_bar), v = a^2 std^2 + 1 - a^2,
    and given k, E[x_0 | x_t] = means[k] + a std^2 / v (x_t - a means[k]).
    """

    schedule: Schedule = Schedule()

    def __call__(self, theta: GaussianMixture, x_t: Array, t: Int[Array, ""]) -> Array:
        """E[x_0 | x_t], of the shape of x_t (any); 0 <= t <= T."""
        alpha_bar = jnp.asarray(self.schedule.alpha_bar, x_t.dtype)[t]
        noise_variance = jnp.asarray(1 - self.schedule.alpha_bar, x_t.dtype)[t]
        std = jnp.broadcast_to(theta.std, x_t.shape)[None]
        variance = alpha_bar * std**2 + noise_variance
        error = x_t[None] - jnp.sqrt(alpha_bar) * theta.means
        square = jnp.sum(error**2 / variance, axis=range(1, error.ndim))
        posterior = jax.nn.softmax(theta.log_weights - square / 2)
        per_component = theta.means + jnp.sqrt(alpha_bar) * std**2 / variance * error
        # Means may be large beside std: the shorter products of accelerators would lose it.
        return jnp.tensordot(posterior, per_component, axes=1, precision=jax.lax.Precision.HIGHEST)


def add_noise(eps: Array, x_0: Array, t: Int[Array, ""], schedule: Schedule) -> Array:
    """x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, of the shape of x_0."""
    signal = jnp.asarray(schedule.alpha_bar**0.5, x_0.dtype)[t]
    noise = jnp.asarray((1 - schedule.alpha_bar) ** 0.5, x_0.dtype)[t]
    return signal * x_0 + noise * eps


def bridge_draw(eps: Array, coefficients: Any, x_l: Array, x_s: Array) -> Array:
    """A draw of q(x_t | x_s, x_l) = N(c_l x_l + c_s x_s, std^2 I) from standard normal eps."""
    return coefficients.c_l * x_l + coefficients.c_s * x_s + coefficients.std * eps


def levels(schedule: Schedule, t: Int[Array, ""], dtype: Any) -> tuple[Array, Array]:
    """(sqrt(alpha_bar[t]), sigma_t), float ()."""
    sqrt_alpha_bar = jnp.asarray(schedule.alpha_bar**0.5, dtype)[t]
    return sqrt_alpha_bar, jnp.asarray(schedule.sigma, dtype)[t]
