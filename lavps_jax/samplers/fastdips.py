"""FAST-DIPS: predictions moved into the ball of images that explain y (Kim et al. 2026)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion import denoise
from lavps_jax.errors import UserError, check_positive
from lavps_jax.samplers.base import (
    Cost,
    Plan,
    Segment,
    State,
    check_gaussian,
    check_schedule,
    on_device,
)
from lavps_jax.samplers.ddim import ddim_times
from lavps_jax.schedules import Schedule
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["FastDIPS", "FastDIPSRow", "into_ball"]


class FastDIPSRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      signal, noise: x_{t_prev} = signal x_0 + noise eps, float ().
    """

    t: Any
    signal: Any
    noise: Any


def into_ball(
    x_0_hat: Float[Array, "H W C"],
    problem: Problem,
    radius: Float[Array, ""],
    penalty: float,
    num_admm_steps: int,
    num_descent_steps: int,
) -> Float[Array, "H W C"]:
    """Minimises ||x - x_0_hat||^2 / 2 subject to ||y - A(x)|| <= radius, by ADMM.

    With v = A(x) as a variable of its own and u its scaled multiplier: v is the point of the ball
    nearest to A(x) + u, u grows by A(x) - v, and x takes `num_descent_steps` steps down g, the
    gradient of ||x - x_0_hat||^2 / 2 + penalty ||A(x) - v + u||^2 / 2, each as long as minimises it
    along g with A linearised: ||g||^2 / (||g||^2 + penalty ||J g||^2), J = dA / dx. Any
    differentiable A.
    """
    operator = problem.operator

    def forward(x: Array) -> Array:
        return operator.project(operator.forward(x))

    y = operator.project(problem.y)

    def ball(value: Array) -> Array:
        distance = jnp.sqrt(jnp.sum(jnp.abs(value - y) ** 2))
        inside = distance <= radius
        return y + jnp.where(inside, 1, radius / jnp.where(inside, 1, distance)) * (value - y)

    def descend(x: Array, target: Array) -> Array:
        def loss(x):
            gap = jnp.sum((x - x_0_hat) ** 2)
            return (gap + penalty * jnp.sum(jnp.abs(forward(x) - target) ** 2)) / 2

        g = jax.grad(loss)(x)
        _, along = jax.jvp(forward, (x,), (g,))
        square = jnp.sum(g**2)
        curvature = square + penalty * jnp.sum(jnp.abs(along) ** 2)
        return x - square / jnp.maximum(curvature, jnp.finfo(x.dtype).tiny) * g

    def admm_step(carry, _):
        x, v, u = carry
        x, _ = jax.lax.scan(
            lambda x, _: (descend(x, v - u), None), x, None, length=num_descent_steps
        )
        reached = forward(x)
        v = ball(reached + u)
        return (x, v, u + reached - v), None

    reached = forward(x_0_hat)
    start = (x_0_hat, ball(reached), jnp.zeros_like(reached))
    (x, _, _), _ = jax.lax.scan(admm_step, start, None, length=num_admm_steps)
    return x


@dataclass(frozen=True)
class FastDIPS:
    """Corrections under a hard constraint (Kim et al., ICLR 2026, arXiv:2603.01591).

    At each time: x_0_hat = D(x_t, t); x_0 minimises ||x - x_0_hat||^2 subject to
    ||y - A(x)|| <= radius, by a few steps of ADMM, see `into_ball`; and
    x_{t_prev} = sqrt(alpha_bar[t_prev]) x_0 + sqrt(1 - alpha_bar[t_prev]) noise. Derivatives are
    of the operator only, linear or not. The last x_0 is the sample.

    Left open by the description at hand, and chosen here: the radius, sigma_y times the square root
    of the number of measured values, where the residual of the truth lies; the penalty in units of
    the weight of ||x - x_0_hat||^2; the numbers of steps; the times, which are even; and no
    backtracking of the step length, which matters for operators that are not linear only.
    Poisson noise is taken as Gaussian of its typical standard deviation.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      num_admm_steps, num_descent_steps: at each of them, and in each of those.
      penalty: of ADMM, positive.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 100
    num_admm_steps: int = 5
    num_descent_steps: int = 2
    penalty: float = 10.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_positive("penalty", self.penalty)
        for name in ("num_admm_steps", "num_descent_steps"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "use at least 1")

    def plan(self) -> Plan:
        """One segment."""
        t, t_prev = ddim_times(self.num_steps, self.schedule)
        alpha_bar = self.schedule.alpha_bar[t_prev]
        return (Segment(on_device(FastDIPSRow(t, alpha_bar**0.5, (1 - alpha_bar) ** 0.5))),)

    def cost(self) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_steps - 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes any operator."""
        check_gaussian(problem, "FAST-DIPS")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one step."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: FastDIPSRow) -> State:
        """One step; the state's x_0 is the corrected prediction at t."""
        x_0 = self._corrected(state.x_t, params, problem, row.t)
        return State(row.signal * x_0 + row.noise * noise, x_0)

    def _corrected(self, x_t: Array, params: Params, problem: Problem, t) -> Array:
        x_0_hat = denoise(self.denoise_fn, params, problem, x_t, t)
        radius = problem.sigma_y * jnp.sqrt(problem.operator.num_observed())
        return into_ball(
            x_0_hat, problem, radius, self.penalty, self.num_admm_steps, self.num_descent_steps
        )

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The corrected prediction at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        return self._corrected(state.x_t, params, problem, jnp.asarray(t))
