"""What networks are told of the noise, what they predict, and how x_0 follows. Method section 2.

Networks see noisy images in frames of their own, x = a x_0 + s eps; here all of them are x = a z
of z = x_0 + sigma eps, with sigma = s / a, and D(z, sigma) = c_skip z + c_out F(c_in z, c_noise).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_choices, check_positive

SIGMA_DATA = 0.5
"""Standard deviation of images that the preconditioning assumes (Karras et al. 2022)."""


class Preconditioning(NamedTuple):
    """D(z, sigma) = c_skip z + c_out F(c_in z, c_noise), each float ()."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


@dataclass(frozen=True)
class Parameterisation:
    """How x_0 follows from the output of a network; subclasses give `__call__`.

    Attributes:
      clip: whether D is cut to [-1, 1], as the samplers do that come with published networks of
        noise. What is cut has no derivative: guidance through D does not move it.
    """

    clip: bool = field(default=False, kw_only=True)

    def __call__(self, sigma_t: Float[Array, ""]) -> Preconditioning:
        """The scales at the noise level sigma_t of z = x_0 + sigma_t eps."""
        raise NotImplementedError


@dataclass(frozen=True)
class EDM(Parameterisation):
    """Input and output of unit variance for images of variance sigma_data^2.

    Implements table 1 of Karras et al., "Elucidating the Design Space of Diffusion-Based
    Generative Models", NeurIPS 2022, arXiv:2206.00364. The network is told log(sigma_t) / 4.

    Attributes:
      sigma_data: standard deviation of the images that it assumes, > 0.
    """

    sigma_data: float = SIGMA_DATA

    def __post_init__(self):
        check_positive("parameterisation.sigma_data", self.sigma_data)

    def __call__(self, sigma_t):
        variance = sigma_t**2 + self.sigma_data**2
        return Preconditioning(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma_t * self.sigma_data / jnp.sqrt(variance),
            c_in=1 / jnp.sqrt(variance),
            c_noise=jnp.log(sigma_t) / 4,
        )


@dataclass(frozen=True)
class VP(Parameterisation):
    """A network of x_t = a x_0 + s eps, a^2 + s^2 = 1, at the times 0 to T - 1 of its training.

    Source: Ho et al., NeurIPS 2020, arXiv:2006.11239. Its time 0 is noisy already, ours is the
    clean image: it is told t - 1. Between two times it is told one between them, linear in
    log sigma_t, and beyond the first and the last these.

    Attributes:
      prediction: what it predicts: the noise "eps", "x_0", "v" = a eps - s x_0 (Salimans and Ho,
        arXiv:2202.00512), or the "score" of x_t, -eps / s.
      schedule: that it was trained with. A denoiser may have another one: that of its runs.
    """

    prediction: Literal["eps", "v", "x_0", "score"] = "eps"
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_choices(self)

    def __call__(self, sigma_t):
        a = 1 / jnp.sqrt(1 + sigma_t**2)
        c_skip, c_out = _x_0_from(self.prediction, sigma_t, a)
        return Preconditioning(c_skip, c_out, a, self._time(sigma_t))

    def _time(self, sigma_t: Float[Array, ""]) -> Float[Array, ""]:
        sigma = jnp.asarray(self.schedule.sigma[1:], sigma_t.dtype)
        sigma_t = jnp.clip(sigma_t, sigma[0], sigma[-1])
        below = jnp.clip(jnp.sum(sigma <= sigma_t) - 1, 0, len(sigma) - 2)
        # By ratios, which are one where sigma_t is of the schedule: its times are whole numbers.
        return below + jnp.log(sigma_t / sigma[below]) / jnp.log(sigma[below + 1] / sigma[below])


@dataclass(frozen=True)
class VE(Parameterisation):
    """A network that sees z = x_0 + sigma_t eps itself.

    Source: Song et al., ICLR 2021, arXiv:2011.13456; the defaults are "VE" in table 1 of Karras et
    al. 2022, arXiv:2206.00364.

    Attributes:
      prediction: what it predicts: the noise "eps", its negative "minus_eps" (sigma_t times the
        score), "x_0", or the "score" of z.
      noise: what it is told: log(sigma_t / 2), log(sigma_t) or sigma_t.
    """

    prediction: Literal["minus_eps", "eps", "x_0", "score"] = "minus_eps"
    noise: Literal["log_half_sigma", "log_sigma", "sigma"] = "log_half_sigma"

    def __post_init__(self):
        check_choices(self)

    def __call__(self, sigma_t):
        one = jnp.ones_like(sigma_t)
        c_noise = {
            "log_half_sigma": jnp.log(sigma_t / 2),
            "log_sigma": jnp.log(sigma_t),
            "sigma": sigma_t,
        }
        return Preconditioning(*_x_0_from(self.prediction, sigma_t, one), one, c_noise[self.noise])


@dataclass(frozen=True)
class Flow(Parameterisation):
    """The velocity eps - x_0 of a rectified flow x_t = (1 - t) x_0 + t eps.

    Source: Liu et al., ICLR 2023, arXiv:2209.03003. A network F of the other direction, from noise
    at 0 to images at 1, is -F(x, 1 - t) here.

    Attributes:
      time_scale: the network is told t times this, > 0.
    """

    time_scale: float = 1.0

    def __post_init__(self):
        check_positive("parameterisation.time_scale", self.time_scale)

    def __call__(self, sigma_t):
        a = 1 / (1 + sigma_t)
        c_skip, c_out = _x_0_from("velocity", sigma_t, a)
        return Preconditioning(c_skip, c_out, a, self.time_scale * a * sigma_t)


def _x_0_from(
    prediction: str, sigma_t: Float[Array, ""], a: Float[Array, ""]
) -> tuple[Array, Array]:
    """(c_skip, c_out) of what is predicted of x = a z = a x_0 + s eps; s = a sigma_t."""
    one = jnp.ones_like(sigma_t)
    scales = {
        "eps": (one, -sigma_t),
        "minus_eps": (one, sigma_t),
        "score": (one, a * sigma_t**2),  # eps = -s score
        "x_0": (0 * one, one),
        "v": (a**2, -a * sigma_t),  # a x - s v = (a^2 + s^2) x_0
        "velocity": (a, -a * sigma_t),  # x - s (eps - x_0) = (a + s) x_0
    }
    return scales[prediction]
