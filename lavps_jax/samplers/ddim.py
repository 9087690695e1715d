"""DDIM: samples of the prior, or of a supervised denoiser (Song et al. 2021)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lavps_jax.diffusion.bridges import BridgeCoefficients, bridge_coefficients, bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_at_least, check_fraction
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State, ddim_times, on_device


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


def ddim_plan(num_steps: int, eta: Any, schedule: Schedule) -> Plan:
    """Steps with the times of `ddim_times`."""
    t, t_prev = ddim_times(num_steps, schedule)
    bridge = bridge_coefficients(schedule.alpha_bar, 0, t_prev, t, eta)
    return (Segment(on_device(DDIMRow(t, t_prev, bridge))),)


class DDIM(Sampler):
    """Denoising diffusion implicit model (Song et al., ICLR 2021, arXiv:2010.02502).

    x_{t_prev} ~ q(x_{t_prev} | D(x_t, t), x_t); the last grid time above 0 gives the sample, which
    is one of the prior: y is not used.

    Attributes:
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in [0, 1].
    """

    takes_noise: ClassVar = "any"

    num_steps: int = static(default=100)
    eta: float = 1.0

    def __post_init__(self):
        check_at_least("num_steps", self.num_steps, 3)
        check_fraction("eta", self.eta)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        return ddim_plan(self.num_steps, self.eta, schedule)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call at the start and one a step."""
        return Cost(self.num_steps - 1, 0, 0)

    def init(self, eps, prior, problem) -> State:
        """x_T ~ N(0, I) and its denoised image."""
        return State(eps, prior(eps, jnp.asarray(prior.schedule.num_times - 1), problem.label))

    def step(self, noise: Array, state, prior, problem, segment, row: DDIMRow) -> State:
        """The bridge to t_prev, and the prediction there."""
        x_t = bridge_draw(noise, row.bridge, state.x_t, state.x_0)
        return State(x_t, prior(x_t, row.t_prev, problem.label))
