"""DiffPIR: plug-and-play restoration with a diffusion denoiser (Zhu et al. 2023)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_fraction, check_positive
from lavps_jax.samplers.base import GridSampler, Plan, Segment, State, ddim_times, on_device


class DiffPIRRow(NamedTuple):
    """One step: t, sigma_t, and x_{t_prev} = c_l x_t + c_s x_0_hat + std noise."""

    t: Any
    sigma_t: Any
    c_l: Any
    c_s: Any
    std: Any


class DiffPIR(GridSampler):
    """Plug-and-play image restoration (Zhu et al., CVPRW 2023, arXiv:2305.08995, algorithm 1).

    D = D(x_t, t), x_0_hat = argmin_x ||y - A x||^2 + rho_t ||x - D||^2 with
    rho_t = strength sigma_y^2 / sigma_t^2, eps_hat = (x_t - sqrt(alpha_bar[t]) x_0_hat) /
    sqrt(1 - alpha_bar[t]), and x_{t_prev} = sqrt(alpha_bar[t_prev]) x_0_hat +
    sqrt(1 - alpha_bar[t_prev]) (sqrt(1 - zeta) eps_hat + sqrt(zeta) noise). The minimum is
    D + (A^T A + rho_t I)^-1 A^T (y - A D), one `ridge`. The last x_0_hat is the sample.

    The defaults are those with which the authors' program for blurs runs at sigma_y = .05: zeta =
    .3 and lambda = 7, which is a strength of 7/4, because they measure sigma_y on images in [0, 1]
    and sigma_t on images in [-1, 1]. Their times lie closer to each other where the noise is low,
    and they begin at y where that is an image; here times are even and the beginning is noise.

    Attributes:
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      strength: of the prior over the measurement, lambda for images in [-1, 1], > 0.
      zeta: share of fresh noise, in [0, 1].
    """

    takes_operator: ClassVar = "linear"

    strength: float = 1.75
    zeta: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        check_positive("strength", self.strength)
        check_fraction("zeta", self.zeta)

    def plan(self, schedule: Schedule) -> Plan:
        t, t_prev = ddim_times(self.num_steps, schedule)
        signal, noise = schedule.alpha_bar**0.5, (1 - schedule.alpha_bar) ** 0.5
        c_l = (1 - self.zeta) ** 0.5 * (noise[t_prev] / noise[t])
        c_s, std = signal[t_prev] - c_l * signal[t], self.zeta**0.5 * noise[t_prev]
        return (Segment(on_device(DiffPIRRow(t, schedule.sigma[t], c_l, c_s, std))),)

    def step(self, noise, state, prior, problem, segment, row: DiffPIRRow) -> State:
        """One step; the state's x_0 is the proximal point at t."""
        x_0 = self._proximal(state.x_t, prior, problem, row.t, row.sigma_t)
        return State(row.c_l * state.x_t + row.c_s * x_0 + row.std * noise, x_0)

    def _proximal(self, x_t: Array, prior, problem, t: Array, sigma_t) -> Array:
        x_0, operator = prior(x_t, t, problem.label), problem.operator
        residual = operator.project(problem.y - operator.forward(x_0))
        return x_0 + operator.ridge(residual, self.strength * problem.sigma_y**2 / sigma_t**2)

    def finish(self, state, prior, problem) -> Array:
        """The proximal point at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, prior.schedule)[1][-1]
        sigma_t = prior.schedule.sigma[t].item()
        return self._proximal(state.x_t, prior, problem, jnp.asarray(t), sigma_t)
