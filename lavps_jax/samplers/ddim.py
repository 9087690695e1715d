"""DDIM: samples of the prior, or of a supervised conditional denoiser (Song et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import bridge_draw, denoise
from lavps_jax.diffusion.schedules import (
    BridgeCoefficients,
    Schedule,
    bridge_coefficients,
    time_grid,
)
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
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
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DDIM", "DDIMRow", "check_eta", "ddim_plan", "ddim_times"]


class DDIMRow(NamedTuple):
    """One step: from time t to the next lower grid time t_prev.

    Attributes:
      t: int ().
      t_prev: int ().
      bridge: q(x_{t_prev} | x_0, x_t).
    """

    t: Any
    t_prev: Any
    bridge: BridgeCoefficients


def ddim_times(num_steps: int, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Times (t, t_prev) of the steps from the last grid time down to the second lowest one, which
    is above 0; int64 (num_steps - 2,).

    Raises:
      UserError: if num_steps is out of range.
    """
    if not 3 <= num_steps <= schedule.num_times:
        raise UserError("num_steps", num_steps, f"use 3 to {schedule.num_times}")
    times = time_grid(num_steps, schedule)[::-1]
    return times[:-2], times[1:-1]


def ddim_plan(num_steps: int, eta: float, schedule: Schedule) -> Plan:
    """Steps with the times of `ddim_times`."""
    check_eta(eta)
    t, t_prev = ddim_times(num_steps, schedule)
    bridge = bridge_coefficients(schedule.alpha_bar, 0, t_prev, t, eta)
    return (Segment(on_device(DDIMRow(t, t_prev, bridge))),)


def check_eta(eta: float) -> None:
    """Raises a UserError unless it lies in [0, 1]."""
    if not 0 <= eta <= 1:
        raise UserError("eta", eta, "use a number in [0, 1]")


@dataclass(frozen=True)
class DDIM:
    """Denoising diffusion implicit model (Song et al., ICLR 2021, arXiv:2010.02502).

    x_{t_prev} ~ q(x_{t_prev} | D(x_t, t), x_t); the last grid time above 0 gives the sample. With
    a `SupervisedDenoiser` the samples are of p(x_0 | y); otherwise y is not used.

    Attributes:
      denoise_fn: the prior (weights params["theta"]), or a conditional denoiser (weights
        params["phi"]).
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in [0, 1].
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn | SupervisedDenoiser
    num_steps: int = 100
    eta: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)

    def plan(self) -> Plan:
        """One segment."""
        return ddim_plan(self.num_steps, self.eta, self.schedule)

    def cost(self) -> Cost:
        """One denoiser call at the start and one a step."""
        return Cost(self.num_steps - 1, 0, 0)

    def _predict(self, params: Params, problem: Problem, x_t: Array, t: Array) -> Array:
        if isinstance(self.denoise_fn, SupervisedDenoiser):
            return self.denoise_fn(params["phi"], x_t, problem, t)
        return denoise(self.denoise_fn, params, problem, x_t, t)

    def check(self, problem: Problem) -> None:
        """Takes any problem; with a conditional denoiser what its network can see."""
        if isinstance(self.denoise_fn, SupervisedDenoiser):
            check_gaussian(problem, "a conditional denoiser")
            if self.denoise_fn.pivot or self.denoise_fn.sees_measurement:
                check_linear(problem, "a denoiser that sees the operator")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I) and its denoised image."""
        last = jnp.asarray(self.schedule.num_times - 1)
        return State(eps, self._predict(params, problem, eps, last))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one bridge."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: DDIMRow) -> State:
        """The bridge to t_prev, and the prediction there."""
        x_t = bridge_draw(noise, row.bridge, state.x_t, state.x_0)
        return State(x_t, self._predict(params, problem, x_t, row.t_prev))

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The last prediction."""
        return state.x_0
