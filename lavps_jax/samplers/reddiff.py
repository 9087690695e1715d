"""RED-diff: an image optimised under the measurement and a denoiser (Mardani et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import denoise
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import check_at_least, check_positive
from lavps_jax.problems.likelihoods import log_likelihood
from lavps_jax.samplers.base import Cost, Plan, Segment, State, check_schedule, on_device
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["REDDiff", "REDDiffRow"]


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


@dataclass(frozen=True)
class REDDiff:
    """Regularisation by denoising diffusion (Mardani et al., ICLR 2024, arXiv:2305.04391).

    Algorithm 1: times t fall along the grid, and at each one step of Adam is taken on x_0 with
    x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps, a fresh eps, and the gradient of
    ||y - A(x_0)||^2 + strength sigma_t <eps_hat(x_t, t) - eps, x_0>, where the bracket's first part
    is held fixed: nothing is differentiated through the denoiser. sigma_t is the inverse of the
    square root of the signal-to-noise ratio, the weighting that the paper recommends.

    It begins at `Problem.x_pinv`, where the paper takes the pseudo-inverse, and ends near one
    image: particles differ by eps only, and are not samples of the posterior. The squared residual
    is -2 sigma_y^2 log l(y | x_0), which is what takes its place for other noise than Gaussian.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; a step at each of them above 0.
      strength: lambda of the paper, >= 0.
      learning_rate: of Adam with decays 0.9 and 0.99, positive.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 1000
    strength: float = 0.25
    learning_rate: float = 0.1
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        time_grid(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_at_least("strength", self.strength, 0)
        check_positive("learning_rate", self.learning_rate)

    def plan(self) -> Plan:
        """One segment."""
        t = time_grid(self.num_steps, self.schedule)[:0:-1]
        alpha_bar = self.schedule.alpha_bar[t]
        weight = self.strength * self.schedule.sigma[t]
        return (Segment(on_device(REDDiffRow(t, alpha_bar**0.5, (1 - alpha_bar) ** 0.5, weight))),)

    def cost(self) -> Cost:
        """One denoiser call a step."""
        return Cost(self.num_steps - 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes any problem."""

    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate, b1=0.9, b2=0.99)

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_0 is what y looks like in image space; the memory holds Adam's moments."""
        x_0 = problem.x_pinv.astype(eps.dtype)
        return State(eps, x_0, self._optimizer().init(x_0))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """eps of one step."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: REDDiffRow) -> State:
        """One step of Adam."""
        x_0 = state.x_0
        x_t = row.signal * x_0 + row.noise * noise
        x_0_hat = denoise(self.denoise_fn, params, problem, x_t, row.t)
        eps_hat = (x_t - row.signal * x_0_hat) / row.noise

        def square(x_0: Array) -> Array:
            return -2 * problem.sigma_y**2 * log_likelihood(problem, x_0)

        gradient = jax.grad(square)(x_0) + row.weight * (eps_hat - noise)
        update, memory = self._optimizer().update(gradient, state.memory)
        moved: Any = optax.apply_updates(x_0, update)
        return State(x_t, moved, memory)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The last x_0."""
        return state.x_0
