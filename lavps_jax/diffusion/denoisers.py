"""Denoisers E[x_0 | x_t] of one image: the diffusion prior. Method section 2."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.bridges import levels
from lavps_jax.diffusion.parameterisations import EDM, Parameterisation
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.pytrees import Node, static
from lavps_jax.types import Weights


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


class NetworkDenoiser(Denoiser):
    """E[x_0 | x_t] from a network, whatever it was trained to predict.

    The network works in the variance-exploding frame z = x_t / sqrt(alpha_bar[t]), where the noise
    has standard deviation sigma_t. Channels of its output beyond those of the image (variances
    that some networks learn) are not used.

    Attributes:
      weights: of the network.
      model: the raw network F(weights, x (H, W, C), c_noise (1,)), static.
      parameterisation: what it predicts, see `lavps_jax.diffusion.parameterisations`, static.
    """

    weights: Weights
    model: Callable[..., Array] = static()
    parameterisation: Parameterisation = static(default=EDM())

    def at_sigma(
        self,
        z: Float[Array, "H W C"],
        sigma_t: Float[Array, ""],
        label: Float[Array, " K"] | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "H W C"]:
        """D(z, sigma_t) for z = x_0 + sigma_t eps; label one-hot, None for the null class."""
        c = self.parameterisation(sigma_t)
        output = self.model(
            self.weights, c.c_in * z, c.c_noise[None], label=label, dropout_key=dropout_key
        )
        x_0 = c.c_skip * z + c.c_out * output[..., : z.shape[-1]]
        return jnp.clip(x_0, -1, 1) if self.parameterisation.clip else x_0

    def __call__(self, x_t, t, label=None):
        sqrt_alpha_bar, sigma_t = levels(self.schedule, t, x_t.dtype)
        return self.at_sigma(x_t / sqrt_alpha_bar, sigma_t, label)
