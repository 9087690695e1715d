"""Samples of a generator that was trained for a family of operators, one evaluation each."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError, check_positive
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State
from lavps_jax.types import PRNGKey


def generate(
    denoiser: SupervisedDenoiser,
    eps: Float[Array, "H W C"],
    problem: Problem,
    prepared: Any,
    start_sigma: Float[Array, ""],
) -> Float[Array, "H W C"]:
    """x = D(start_sigma eps, start_sigma; y) with standard normal eps: one sample."""
    return denoiser.predict(start_sigma * eps, problem, prepared, start_sigma)[0]


class OneStep(Sampler):
    """Amortized posterior sampling in one step; see `lavps_jax.training.one_step`.

    Attributes:
      generator: the network; on the command line the folder of an exported one.
      start_sigma: noise level at which it was trained to begin; a run takes that of the export.
    """

    generator: Any = ""
    start_sigma: float = 2.5

    def __post_init__(self):
        check_positive("start_sigma", self.start_sigma)

    @property
    def network(self) -> SupervisedDenoiser:
        """The generator, if it is one and not a path."""
        if isinstance(self.generator, str):
            raise UserError(
                "generator", repr(self.generator), "load it: OneStep(*load_generator(path))"
            )
        return self.generator

    def plan(self, schedule: Schedule) -> Plan:
        """One segment of one step."""
        _ = self.network  # A path is refused before anything runs.
        return (Segment(jnp.zeros(1)),)

    def cost(self, schedule: Schedule) -> Cost:
        """One evaluation of the generator."""
        return Cost(1, 0, 0)

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> None:
        """None besides that of `init`."""

    def step(self, noise, state, prior, problem, segment, row) -> State:
        """The sample."""
        prepared, sigma = self.network.prepare(problem), jnp.asarray(self.start_sigma, jnp.float32)
        return State(state.x_t, generate(self.network, state.x_t, problem, prepared, sigma))
