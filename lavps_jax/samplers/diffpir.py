"""DiffPIR: plug-and-play restoration with a diffusion denoiser (Zhu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import denoise
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, check_positive
from lavps_jax.samplers.base import (
    Cost,
    Plan,
    Segment,
    State,
    check_gaussian,
    check_linear,
    check_schedule,
    on_device,
)
from lavps_jax.samplers.ddim import ddim_times
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DiffPIR", "DiffPIRRow"]


class DiffPIRRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      sigma_t: noise-to-signal level at t, float ().
      c_l, c_s, std: x_{t_prev} = c_l x_t + c_s x_0_hat + std noise, float ().
    """

    t: Any
    sigma_t: Any
    c_l: Any
    c_s: Any
    std: Any


@dataclass(frozen=True)
class DiffPIR:
    """Plug-and-play image restoration (Zhu et al., CVPRW 2023, arXiv:2305.08995, algorithm 1).

    D = D(x_t, t), x_0_hat = argmin_x ||y - A x||^2 + rho_t ||x - D||^2 with
    rho_t = strength sigma_y^2 / sigma_t^2, eps_hat = (x_t - sqrt(alpha_bar[t]) x_0_hat) /
    sqrt(1 - alpha_bar[t]), and x_{t_prev} = sqrt(alpha_bar[t_prev]) x_0_hat +
    sqrt(1 - alpha_bar[t_prev]) (sqrt(1 - zeta) eps_hat + sqrt(zeta) noise). The minimum is
    D + (A^T A + rho_t I)^-1 A^T (y - A D), one `ridge`. The last x_0_hat is the sample.

    For linear operators; Poisson noise is taken as Gaussian of its typical standard deviation.
    The defaults are those with which the authors' program for blurs runs at sigma_y = .05: zeta =
    .3 and lambda = 7, which is a strength of 7/4, because they measure sigma_y on images in [0, 1]
    and sigma_t on images in [-1, 1]. Their times lie closer to each other where the noise is low,
    and they begin at y where that is an image; here times are even and the beginning is noise.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      strength: lambda of the paper for images in [-1, 1], of the prior over the measurement,
        positive.
      zeta: share of fresh noise, in [0, 1].
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 100
    strength: float = 1.75
    zeta: float = 0.3
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_positive("strength", self.strength)
        if not 0 <= self.zeta <= 1:
            raise UserError("zeta", self.zeta, "use a number in [0, 1]")

    def plan(self) -> Plan:
        """One segment."""
        t, t_prev = ddim_times(self.num_steps, self.schedule)
        signal, noise = self.schedule.alpha_bar**0.5, (1 - self.schedule.alpha_bar) ** 0.5
        c_l = (1 - self.zeta) ** 0.5 * noise[t_prev] / noise[t]
        c_s = signal[t_prev] - c_l * signal[t]
        std = self.zeta**0.5 * noise[t_prev]
        return (Segment(on_device(DiffPIRRow(t, self.schedule.sigma[t], c_l, c_s, std))),)

    def cost(self) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_steps - 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes linear operators."""
        check_linear(problem, "DiffPIR")
        check_gaussian(problem, "DiffPIR")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one step."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: DiffPIRRow) -> State:
        """One step; the state's x_0 is the proximal point at t."""
        x_0 = self._proximal(state.x_t, params, problem, row.t, row.sigma_t)
        return State(row.c_l * state.x_t + row.c_s * x_0 + row.std * noise, x_0)

    def _proximal(self, x_t: Array, params: Params, problem: Problem, t, sigma_t) -> Array:
        x_0, operator = denoise(self.denoise_fn, params, problem, x_t, t), problem.operator
        residual = operator.project(problem.y - operator.forward(x_0))
        return x_0 + operator.ridge(residual, self.strength * problem.sigma_y**2 / sigma_t**2)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The proximal point at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        sigma_t = self.schedule.sigma[t].item()
        return self._proximal(state.x_t, params, problem, jnp.asarray(t), sigma_t)
