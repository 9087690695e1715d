"""Samples of a generator that was trained for a family of operators, one evaluation each."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.samplers.base import Cost, Plan, Segment, State, check_gaussian
from lavps_jax.training.one_step import generate
from lavps_jax.types import Params, PRNGKey, Problem

__all__ = ["OneStep"]


@dataclass(frozen=True)
class OneStep:
    """Amortized posterior sampling in one step; see `lavps_jax.training.one_step`.

    Attributes:
      denoiser: the generator's network; its weights are params["phi"].
      start_sigma: noise level at which it was trained to begin.
    """

    denoiser: SupervisedDenoiser
    start_sigma: float

    def plan(self) -> Plan:
        """One segment of one step."""
        return (Segment(jnp.zeros(1)),)

    def cost(self) -> Cost:
        """One evaluation of the generator."""
        return Cost(1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes any operator; of noise only that sigma_y says how strong it is."""
        check_gaussian(problem, "OneStep")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """The noise of the sample; x_0 is filled by the step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> None:
        """None besides that of `init`."""

    def step(self, noise, state, params, problem, segment, row) -> State:
        """The sample."""
        x_0 = generate(self.denoiser, params["phi"], state.x_t, problem, self.start_sigma)
        return State(state.x_t, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """x_0 of the step."""
        return state.x_0
