"""PiGDM: DDIM steps guided by the pseudo-inverse of a linear operator (Song et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import bridge_draw, denoise
from lavps_jax.diffusion.schedules import Schedule
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
from lavps_jax.samplers.ddim import DDIMRow, check_eta, ddim_plan, ddim_times
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["PiGDM", "PiGDMRow"]


class PiGDMRow(NamedTuple):
    """One step.

    Attributes:
      ddim: times and bridge.
      sqrt_alpha_bar: of t, float ().
      variance: r_t^2 = sigma_t^2 / (1 + sigma_t^2) = 1 - alpha_bar[t], float ().
    """

    ddim: DDIMRow
    sqrt_alpha_bar: Any
    variance: Any


@dataclass(frozen=True)
class PiGDM:
    """Pseudoinverse-guided diffusion (Song et al., ICLR 2023, openreview 9_gsMA8MRKQ, algorithm 1).

    x_{t_prev} = DDIM(x_t, D) + sqrt(alpha_bar[t]) g with D = D(x_t, t), J = dD / dx_t and
    g = r_t^2 J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A D), r_t^2 = 1 - alpha_bar[t]. That is
    r_t^2 times the gradient of log N(y; A D, r_t^2 A A^T + sigma_y^2 I), which treats p(x_0 | x_t)
    as N(D, r_t^2 I). Since A^T (A A^T + w I)^-1 = (A^T A + w I)^-1 A^T, it is one `ridge` with
    w = sigma_y^2 / r_t^2 and one vector-Jacobian product.

    For linear operators. Poisson noise is taken as Gaussian of its typical standard deviation.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in [0, 1]; 1 in the paper.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 100
    eta: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_eta(self.eta)

    def plan(self) -> Plan:
        """One segment."""
        (segment,) = ddim_plan(self.num_steps, self.eta, self.schedule)
        alpha_bar = self.schedule.alpha_bar[ddim_times(self.num_steps, self.schedule)[0]]
        return (Segment(PiGDMRow(segment.rows, *on_device((alpha_bar**0.5, 1 - alpha_bar)))),)

    def cost(self) -> Cost:
        """One denoiser call and its derivative a step, and one last call."""
        return Cost(self.num_steps - 1, self.num_steps - 2, 0)

    def check(self, problem: Problem) -> None:
        """Takes linear operators."""
        check_linear(problem, "PiGDM")
        check_gaussian(problem, "PiGDM")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one bridge."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: PiGDMRow) -> State:
        """One guided step; the state's x_0 is the prediction at t."""
        x_0, pull_back = jax.vjp(
            lambda x_t: denoise(self.denoise_fn, params, problem, x_t, row.ddim.t), state.x_t
        )
        operator = problem.operator
        residual = operator.project(problem.y - operator.forward(x_0))
        (g,) = pull_back(operator.ridge(residual, problem.sigma_y**2 / row.variance))
        x_t = bridge_draw(noise, row.ddim.bridge, state.x_t, x_0) + row.sqrt_alpha_bar * g
        return State(x_t, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        return denoise(self.denoise_fn, params, problem, state.x_t, jnp.asarray(t))
