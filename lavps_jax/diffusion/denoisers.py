"""Denoisers E[x_0 | x_t] of one image: the diffusion prior. Method section 2."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.bridges import levels
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.tiled import Model
from lavps_jax.pytrees import Node, static
from lavps_jax.types import Weights

SIGMA_DATA = 0.5
"""Standard deviation of images that the preconditioning assumes (Karras et al. 2022)."""


class Denoiser(Node):
    """A prior over images, as what diffusion models know of it: E[x_0 | x_t].

    A pytree whose leaves are weights; subclasses give `__call__`.

    Attributes:
      schedule: noise schedule of the times, static.
    """

    schedule: Schedule = static(default=Schedule(), kw_only=True)

    def __call__(
        self,
        x_t: Float[Array, "H W C"],
        t: Int[Array, ""],
        label: Float[Array, " K"] | None = None,
    ) -> Float[Array, "H W C"]:
        """E[x_0 | x_t], of the shape of x_t.

        Args:
          x_t: noisy image, of unit variance at the last time, float (H, W, C).
          t: time, int (), 1 to schedule.num_times.
          label: class of the image, one-hot, for a prior with classes; None is the null class.
        """
        raise NotImplementedError


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


class EDMDenoiser(Denoiser):
    """E[x_0 | x_t] from an EDM-preconditioned network.

    The network works in the variance-exploding frame z = x_t / sqrt(alpha_bar[t]), where the noise
    has standard deviation sigma_t.

    Attributes:
      weights: of the network.
      model: the raw network F(weights, x (H, W, C), noise_levels (1,)), static.
    """

    weights: Weights
    model: Model = static()

    def at_sigma(
        self,
        z: Float[Array, "H W C"],
        sigma_t: Float[Array, ""],
        label: Float[Array, " K"] | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        """D(z, sigma_t) for z = x_0 + sigma_t eps; label one-hot, None for the null class."""
        c = edm_preconditioning(sigma_t)
        return c.c_skip * z + c.c_out * self.model(
            self.weights, c.c_in * z, c.c_noise[None], label=label, dropout_key=dropout_key
        )

    def __call__(self, x_t, t, label=None):
        sqrt_alpha_bar, sigma_t = levels(self.schedule, t, x_t.dtype)
        return self.at_sigma(x_t / sqrt_alpha_bar, sigma_t, label)
