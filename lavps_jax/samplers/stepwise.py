"""Runs a sampler in pieces, so that the host knows how far it is and can stop in between.

The same numbers as `sample`: every step is an iteration of a loop there and here. A
callback out of one whole program would say as much, but JAX does not keep programs with callbacks
in its compilation cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers.base import Plan, Sampler, State
from lavps_jax.samplers.run import initial_state, one_step, particle_keys
from lavps_jax.types import PRNGKey


class Given(NamedTuple):
    """What a batch is made of; arrays on one device.

    Attributes:
      rng_keys: one key per measurement, (B,).
      sampler: the method.
      prior: the denoiser.
      problems: a stack of B measurements with Gaussian noise of one standard deviation each, or
        other noise, see `homoscedastic`.
      plan: `sampler.plan(prior.schedule)`.
    """

    rng_keys: PRNGKey
    sampler: Sampler
    prior: Denoiser
    problems: Problem
    plan: Plan


class Piece(NamedTuple):
    """What some steps of a run make.

    Attributes:
      end: how many steps are done with it; the last prediction is counted as one.
      result: steps before the first whose state is not finite, int (B, P), `end` if there is none;
        of the last prediction the samples, float (B, P, H, W, C).
    """

    end: int
    result: Int[Array, "B P"] | Float[Array, "B P H W C"]


class StepPrograms(NamedTuple):
    """The compiled pieces of one batch, for one device.

    Attributes:
      begin, finish: the states (B, P, ...) before the first step; the samples from the last ones.
      advance: for each segment of the plan, some of its steps.
    """

    begin: Any
    advance: tuple[Any, ...]
    finish: Any

    def all(self) -> tuple[Any, ...]:
        """Every program."""
        return (self.begin, *self.advance, self.finish)

    def run(self, given: Given, piece: Callable[[], int]) -> Iterator[Piece]:
        """Starts the plan's steps, `piece()` at a time or as many as its segment has left.

        Nothing is waited for. The last piece has the samples.
        """
        *fixed, plan = given
        states, done = self.begin(*fixed), 0
        for segment, program in zip(plan, self.advance, strict=True):
            num, first = len(jax.tree.leaves(segment.rows)[0]), 0
            while first < num:
                last = min(first + max(1, piece()), num)
                counts = (np.int32(k) for k in (done, first, last))
                states, finite_steps = program(states, *fixed, segment, *counts)
                yield Piece(done + last, finite_steps)
                first = last
            done += num
        yield Piece(done + 1, self.finish(states, given.sampler, given.prior, given.problems))


def compile_steps(num_particles: int, batches: list[Given], pool: Executor) -> list[StepPrograms]:
    """Programs for batches of one shape, each compiled for the device of its batch.

    Args:
      num_particles: P of every measurement.
      batches: one for each device.
      pool: what compiles in parallel.

    Raises:
      UserError: if the method cannot take such problems.
    """

    def begin(rng_keys, sampler, prior, problems):
        def image(rng_key, problem):
            sampler.check(problem)

            def particle(key):
                return initial_state(key, sampler, prior, problem)

            return jax.vmap(particle)(particle_keys(rng_key, num_particles))

        return jax.vmap(image)(rng_keys, problems)

    def advance(states, rng_keys, sampler, prior, problems, segment, done, first, last):
        """Steps first to last - 1 of a segment, behind `done` steps of others."""

        def image(rng_key, problem, states):
            def particle(key, state: State):
                def step(k, carry):
                    state, finite_steps = carry
                    row = jax.tree.map(lambda leaf: leaf[k], segment.rows)
                    state, finite = one_step(
                        key, done + k, row, state, sampler, prior, problem, segment
                    )
                    broke = ~finite & (finite_steps > done + k)
                    return state, jnp.where(broke, done + k, finite_steps)

                return jax.lax.fori_loop(first, last, step, (state, done + last))

            return jax.vmap(particle)(particle_keys(rng_key, num_particles), states)

        return jax.vmap(image)(rng_keys, problems, states)

    def finish(states, sampler, prior, problems):
        def image(problem, states):
            return jax.vmap(lambda state: sampler.finish(state, prior, problem))(states)

        return jax.vmap(image)(problems, states)

    begin, finish = jax.jit(begin), jax.jit(finish, donate_argnums=0)
    advance, count = jax.jit(advance, donate_argnums=0), np.int32(0)
    lowered = []
    for given in batches:
        *fixed, plan = given
        (device,) = given.rng_keys.devices()
        placed = SingleDeviceSharding(device)
        states = jax.tree.map(
            lambda one, placed=placed: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=placed),
            jax.eval_shape(begin, *fixed),
        )
        lowered.append(begin.lower(*fixed))
        lowered += [advance.lower(states, *fixed, one, count, count, count) for one in plan]
        lowered.append(finish.lower(states, *fixed[1:]))
    compiled = list(pool.map(lambda one: one.compile(), lowered))
    each = len(compiled) // len(batches)
    return [
        StepPrograms(one[0], tuple(one[1:-1]), one[-1])
        for one in (compiled[k : k + each] for k in range(0, len(compiled), each))
    ]
