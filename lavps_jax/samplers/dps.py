"""DPS: DDIM steps corrected by the gradient of the residual (Chung et al. 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_at_least, check_fraction
from lavps_jax.samplers.base import Cost, GridSampler, Plan, State
from lavps_jax.samplers.ddim import DDIMRow, ddim_plan


class DPS(GridSampler):
    """Diffusion posterior sampling (Chung et al., ICLR 2023, arXiv:2209.14687, algorithm 1).

    x_{t_prev} = DDIM(x_t, D(x_t, t)) - step_size grad_{x_t} ||r||, r = y - A(D(x_t, t)), with the
    norm of the residual of this one image. That is the step of the authors' program; the paper's
    zeta' / ||r|| multiplies the gradient of ||r||^2, so zeta' is half of `step_size`. The step does
    not depend on sigma_y, and knows nothing of how the noise is distributed.

    Attributes:
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      step_size: `scale` of the authors' program, .3 and .5 there for 1000 steps; >= 0.
      eta: stochasticity in [0, 1].
    """

    step_size: float = 2.0
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least("step_size", self.step_size, 0)
        check_fraction("eta", self.eta)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        return ddim_plan(self.num_steps, self.eta, schedule)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call and its derivative a step, and one last call."""
        return Cost(self.num_steps - 1, self.num_steps - 2, 0)

    def step(self, noise: Array, state, prior, problem, segment, row: DDIMRow) -> State:
        """One guided step; the state's x_0 is the prediction at t."""

        def residual_square(x_t: Array) -> tuple[Array, Array]:
            x_0, operator = prior(x_t, row.t, problem.label), problem.operator
            residual = operator.project(problem.y - operator.forward(x_0))
            return jnp.sum(jnp.abs(residual) ** 2), x_0

        (square, x_0), gradient = jax.value_and_grad(residual_square, has_aux=True)(state.x_t)
        # An exactly fitted measurement has gradient zero: no guidance instead of 0 / 0.
        norm = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
        x_t = bridge_draw(noise, row.bridge, state.x_t, x_0)
        return State(x_t - self.step_size / (2 * norm) * gradient, x_0)
