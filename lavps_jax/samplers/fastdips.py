"""FAST-DIPS: predictions moved into the ball of images that explain y (Kim et al. 2026)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_at_least, check_positive
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import GridSampler, Plan, Segment, State, ddim_times, on_device


class FastDIPSRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      variance: sigma_t^2, float ().
      signal, noise: x_{t_prev} = signal x_0 + noise eps, float ().
    """

    t: Any
    variance: Any
    signal: Any
    noise: Any


def into_ball(
    x_0_hat: Float[Array, "H W C"],
    problem: Problem,
    radius: Float[Array, ""],
    penalty: Float[Array, ""],
    num_admm_steps: int,
    num_descent_steps: int,
) -> Float[Array, "H W C"]:
    """Minimises ||x - x_0_hat||^2 / 2 subject to ||y - A(x)|| <= radius, by ADMM.

    With v as a variable of its own in the place of A(x), at first equal to it, and u = 0 its scaled
    multiplier: x takes `num_descent_steps` steps down g, the gradient of
    ||x - x_0_hat||^2 / 2 + penalty ||A(x) - v + u||^2 / 2, each as long as minimises it along g
    with A linearised: ||g||^2 / (||g||^2 + penalty ||J g||^2), J = dA / dx, and halved up to 8
    times while it leads uphill; v is the point of the ball nearest to A(x) + u; u grows by
    A(x) - v. So the first step leaves x where it is. Source: see `FastDIPS`.

    Args:
      x_0_hat: where it begins, float (H, W, C).
      problem: y and any differentiable A.
      radius: float (), not negative.
      penalty: float (), positive.
      num_admm_steps, num_descent_steps: of ADMM, and of descent in each of them; at least 1.

    Returns:
      x, like x_0_hat.
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

        before, g = jax.value_and_grad(loss)(x)
        _, along = jax.jvp(forward, (x,), (g,))
        square = jnp.sum(g**2)
        curvature = square + penalty * jnp.sum(jnp.abs(along) ** 2)
        full = square / jnp.maximum(curvature, jnp.finfo(x.dtype).tiny)
        length = jax.lax.while_loop(
            lambda length: (loss(x - length * g) > before) & (length > full / 2**7.5),
            lambda length: length / 2,
            full,
        )
        return x - length * g

    def admm_step(carry, _):
        x, v, u = carry
        x, _ = jax.lax.scan(
            lambda x, _: (descend(x, v - u), None), x, None, length=num_descent_steps
        )
        reached = forward(x)
        v = ball(reached + u)
        return (x, v, u + reached - v), None

    reached = forward(x_0_hat)
    start = (x_0_hat, reached, jnp.zeros_like(reached))
    (x, _, _), _ = jax.lax.scan(admm_step, start, None, length=num_admm_steps)
    return x


class FastDIPS(GridSampler):
    """Corrections under a hard constraint (Kim et al., ICLR 2026, arXiv:2603.01591).

    At each time: x_0_hat = D(x_t, t); x_0 minimises ||x - x_0_hat||^2 / (2 sigma_t^2) subject to
    ||y - A(x)|| <= radius, by a few steps of ADMM, see `into_ball`; and
    x_{t_prev} = sqrt(alpha_bar[t_prev]) x_0 + sqrt(1 - alpha_bar[t_prev]) noise. Derivatives are
    of the operator only, linear or not. The last prediction is the sample.

    The defaults are those of the authors for deblurring at sigma_y = .05 (their table 2; 3 ADMM
    steps with one of descent for super-resolution and inpainting, 150 times, 2 and 5 for operators
    that are not linear). Few steps from x_0_hat on do not reach a ball that small: what is then
    left of the noise in y is decided by the penalty. Times are even here, where the authors take
    even steps in sigma^(1/7). Poisson noise is taken as Gaussian of its typical standard deviation.

    Attributes:
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      num_admm_steps, num_descent_steps: at each of them, and in each of those.
      penalty: rho of ADMM, positive: the weight of ||A(x) - v + u||^2 / 2.
      radius: of the ball, epsilon, not negative: a distance over all measured values together.
    """

    num_steps: int = static(default=50)
    num_admm_steps: int = static(default=3)
    num_descent_steps: int = static(default=2)
    penalty: float = 200.0
    radius: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        check_positive("penalty", self.penalty)
        check_at_least("radius", self.radius, 0)
        for name in ("num_admm_steps", "num_descent_steps"):
            check_at_least(name, getattr(self, name), 1)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        t, t_prev = ddim_times(self.num_steps, schedule)
        alpha_bar = schedule.alpha_bar[t_prev]
        row = FastDIPSRow(t, schedule.sigma[t] ** 2, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
        return (Segment(on_device(row)),)

    def step(self, noise, state, prior, problem, segment, row: FastDIPSRow) -> State:
        """One step; the state's x_0 is the corrected prediction at t."""
        x_0_hat = prior(state.x_t, row.t, problem.label)
        # Times the variance, what is minimised is as `into_ball` has it.
        penalty = self.penalty * row.variance
        steps = self.num_admm_steps, self.num_descent_steps
        x_0 = into_ball(x_0_hat, problem, jnp.asarray(self.radius), penalty, *steps)
        return State(row.signal * x_0 + row.noise * noise, x_0)
