"""RED-diff: an image optimised under the measurement and a denoiser (Mardani et al. 2024)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import check_at_least, check_positive
from lavps_jax.problems.problem import Problem, log_likelihood
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State, on_device


class REDDiffRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      signal, noise: x_t = signal x_0 + noise eps, float ().
      weight: of the regulariser, float ().
    """

    t: Any
    signal: Any
    noise: Any
    weight: Any


class REDDiff(Sampler):
    """Regularisation by denoising diffusion (Mardani et al., ICLR 2024, arXiv:2305.04391).

    Algorithm 1: times t fall along the grid, and at each one step of Adam is taken on x_0 with
    x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, a fresh eps, and the gradient of
    ||y - A(x_0)||^2 + strength sigma_t <eps_hat(x_t, t) - eps, x_0>, where the bracket's first part
    is held fixed: nothing is differentiated through the denoiser. sigma_t is the inverse of the
    square root of the signal-to-noise ratio, the weighting that the paper recommends.

    It begins at `estimate`, where the paper takes the pseudo-inverse, and ends near one
    image: particles differ by eps only, and are not samples of the posterior. The squared residual
    is -2 sigma_y^2 log l(y | x_0), which is what takes its place for other noise than Gaussian.

    Attributes:
      num_steps: points of the time grid; a step at each of them above 0.
      strength: lambda of the paper, >= 0.
      learning_rate: of Adam with decays 0.9 and 0.99, positive.
    """

    takes_noise: ClassVar = "any"

    num_steps: int = static(default=1000)
    strength: float = 0.25
    learning_rate: float = 0.1

    def __post_init__(self):
        check_at_least("num_steps", self.num_steps, 2)
        check_at_least("strength", self.strength, 0)
        check_positive("learning_rate", self.learning_rate)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        t = time_grid(self.num_steps, schedule)[:0:-1]
        alpha_bar = schedule.alpha_bar[t]
        weight = self.strength * schedule.sigma[t]
        return (Segment(on_device(REDDiffRow(t, alpha_bar**0.5, (1 - alpha_bar) ** 0.5, weight))),)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call a step."""
        return Cost(self.num_steps - 1, 0, 0)

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.9, b2=0.99)

    def init(self, eps: Float[Array, "H W C"], prior: Denoiser, problem: Problem) -> State:
        """x_0 is what y looks like in image space; the memory holds Adam's moments."""
        x_0 = estimate(problem).astype(eps.dtype)
        return State(eps, x_0, self._optimizer().init(x_0))

    def step(self, noise, state, prior, problem, segment, row: REDDiffRow) -> State:
        """One step of Adam."""
        x_0 = state.x_0
        x_t = row.signal * x_0 + row.noise * noise
        x_0_hat = prior(x_t, row.t, problem.label)
        eps_hat = (x_t - row.signal * x_0_hat) / row.noise

        def square(x_0: Array) -> Array:
            return -2 * problem.sigma_y**2 * log_likelihood(problem, x_0)

        gradient = jax.grad(square)(x_0) + row.weight * (eps_hat - noise)
        update, memory = self._optimizer().update(gradient, state.memory)
        moved: Any = optax.apply_updates(x_0, update)
        return State(x_t, moved, memory)
