"""Samples of a supervised denoiser, which was shown measurements in training."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError, check_at_least, check_fraction
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, Plan, Sampler, State
from lavps_jax.samplers.ddim import DDIMRow, ddim_plan


class Supervised(Sampler):
    """DDIM with a denoiser E[x_0 | x_t, y], whose samples are of p(x_0 | y) if it has learned it.

    There is no likelihood: on operators that the network never saw, samples need not fit y.

    Attributes:
      denoiser: the network; on the command line the folder of an exported one.
      num_steps: points of its schedule's grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in [0, 1].
    """

    denoiser: Any = ""
    num_steps: int = static(default=100)
    eta: float = 1.0

    def __post_init__(self):
        check_at_least("num_steps", self.num_steps, 3)
        check_fraction("eta", self.eta)

    @property
    def network(self) -> SupervisedDenoiser:
        """The denoiser, if it is one and not a path."""
        if isinstance(self.denoiser, str):
            raise UserError("denoiser", repr(self.denoiser), "load it: load_supervised(path)")
        return self.denoiser

    def plan(self, schedule: Schedule) -> Plan:
        """One segment, on the denoiser's own schedule."""
        return ddim_plan(self.num_steps, self.eta, self.network.schedule)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call at the start and one a step."""
        return Cost(self.num_steps - 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes what its network can see."""
        super().check(problem)
        sees_operator = self.network.pivot or self.network.sees_measurement
        if sees_operator and not isinstance(problem.operator, LinearOperator):
            remedy = "use MGDM, LAVPS or DPS: a denoiser that sees the operator needs a linear one"
            raise UserError("operator", type(problem.operator).__name__, remedy)

    def init(self, eps, prior, problem) -> State:
        """x_T ~ N(0, I) and its denoised image; the memory is what the network sees of y."""
        prepared, last = self.network.prepare(problem), self.network.schedule.num_times - 1
        return State(eps, self.network(eps, problem, prepared, jnp.asarray(last)), prepared)

    def step(self, noise: Array, state, prior, problem, segment, row: DDIMRow) -> State:
        """The bridge to t_prev, and the prediction there."""
        x_t = bridge_draw(noise, row.bridge, state.x_t, state.x_0)
        return State(x_t, self.network(x_t, problem, state.memory, row.t_prev), state.memory)
