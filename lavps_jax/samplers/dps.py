"""DPS: DDIM steps corrected by the gradient of the residual (Chung et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import bridge_draw, denoise
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.problems.noise import CustomNoise
from lavps_jax.samplers.base import Cost, Plan, Segment, State, check_schedule
from lavps_jax.samplers.ddim import DDIMRow, ddim_plan
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DPS"]


@dataclass(frozen=True)
class DPS:
    """Diffusion posterior sampling (Chung et al., ICLR 2023, arXiv:2209.14687, algorithm 1).

    x_{t_prev} = DDIM(x_t, D(x_t, t)) - step_size grad_{x_t} ||r||, r = y - A(D(x_t, t)), with the
    norm of the residual of this one image. That is the step of the authors' program; the paper's
    zeta' / ||r|| multiplies the gradient of ||r||^2, so zeta' is half of `step_size`. The step does
    not depend on sigma_y. It knows nothing of how the noise is distributed, so a problem with a
    log-likelihood of its own is refused.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      step_size: `scale` of the authors' program, .3 and .5 there for 1000 steps; >= 0.
      eta: stochasticity in [0, 1].
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 100
    step_size: float = 2.0
    eta: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        check_at_least("step_size", self.step_size, 0)

    def plan(self) -> Plan:
        """One segment."""
        return ddim_plan(self.num_steps, self.eta, self.schedule)

    def cost(self) -> Cost:
        """One denoiser call and its derivative a step, and one last call."""
        return Cost(self.num_steps - 1, self.num_steps - 2, 0)

    def check(self, problem: Problem) -> None:
        """Refuses a log-likelihood of one's own."""
        if isinstance(problem.noise, CustomNoise):
            raise UserError(
                "noise", "a log-likelihood", "use MGDM or LAVPS: DPS sees residuals only"
            )

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one bridge."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: DDIMRow) -> State:
        """One guided step; the state's x_0 is the prediction at t."""

        def residual_square(x_t: Array) -> tuple[Array, Array]:
            x_0 = denoise(self.denoise_fn, params, problem, x_t, row.t)
            operator = problem.operator
            residual = operator.project(problem.y - operator.forward(x_0))
            return jnp.sum(jnp.abs(residual) ** 2), x_0

        (square, x_0), gradient = jax.value_and_grad(residual_square, has_aux=True)(state.x_t)
        # An exactly fitted measurement has gradient zero: no guidance instead of 0 / 0.
        norm = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
        x_t = bridge_draw(noise, row.bridge, state.x_t, x_0)
        return State(x_t - self.step_size / (2 * norm) * gradient, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0."""
        t = self.plan()[0].rows.t_prev[-1]
        return denoise(self.denoise_fn, params, problem, state.x_t, t)
