"""PiGDM: DDIM steps guided by the pseudo-inverse of a linear operator (Song et al. 2023)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_fraction
from lavps_jax.samplers.base import Cost, GridSampler, Plan, Segment, State, ddim_times, on_device
from lavps_jax.samplers.ddim import DDIMRow, ddim_plan


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


class PiGDM(GridSampler):
    """Pseudoinverse-guided diffusion (Song et al., ICLR 2023, openreview 9_gsMA8MRKQ, algorithm 1).

    x_{t_prev} = DDIM(x_t, D) + sqrt(alpha_bar[t]) g with D = D(x_t, t), J = dD / dx_t and
    g = r_t^2 J^T A^T (r_t^2 A A^T + sigma_y^2 I)^-1 (y - A D), r_t^2 = 1 - alpha_bar[t]. That is
    r_t^2 times the gradient of log N(y; A D, r_t^2 A A^T + sigma_y^2 I), which treats p(x_0 | x_t)
    as N(D, r_t^2 I). Since A^T (A A^T + w I)^-1 = (A^T A + w I)^-1 A^T, it is one `ridge` with
    w = sigma_y^2 / r_t^2 and one vector-Jacobian product.

    For linear operators. Poisson noise is taken as Gaussian of its typical standard deviation.

    Attributes:
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in [0, 1]; 1 in the paper.
    """

    takes_operator: ClassVar = "linear"

    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_fraction("eta", self.eta)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        (segment,) = ddim_plan(self.num_steps, self.eta, schedule)
        alpha_bar = schedule.alpha_bar[ddim_times(self.num_steps, schedule)[0]]
        return (Segment(PiGDMRow(segment.rows, *on_device((alpha_bar**0.5, 1 - alpha_bar)))),)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call and its derivative a step, and one last call."""
        return Cost(self.num_steps - 1, self.num_steps - 2, 0)

    def step(self, noise, state, prior, problem, segment, row: PiGDMRow) -> State:
        """One guided step; the state's x_0 is the prediction at t."""
        x_0, pull_back = jax.vjp(lambda x_t: prior(x_t, row.ddim.t, problem.label), state.x_t)
        operator = problem.operator
        residual = operator.project(problem.y - operator.forward(x_0))
        (g,) = pull_back(operator.ridge(residual, problem.sigma_y**2 / row.variance))
        x_t = bridge_draw(noise, row.ddim.bridge, state.x_t, x_0) + row.sqrt_alpha_bar * g
        return State(x_t, x_0)
