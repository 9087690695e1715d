"""Runs a sampler: one compiled program over steps, particles and measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.samplers.base import Info, Plan, Sampler, step_info
from lavps_jax.types import Params, PRNGKey, Problem

__all__ = ["Samples", "make_sample_fn", "sample"]


class Samples(NamedTuple):
    """Posterior samples of one measurement.

    Attributes:
      x_0: float (P, H, W, C), nominally in [-1, 1], not clipped.
      info: diagnostics, leaves (P, steps).
    """

    x_0: Float[Array, "P H W C"]
    info: Info


def sample(
    rng_key: PRNGKey,
    sampler: Sampler,
    params: Params,
    problem: Problem,
    plan: Plan,
    *,
    num_particles: int,
) -> Samples:
    """Draws `num_particles` samples of one measurement.

    Particle p uses the key fold_in(rng_key, p) and step k of it fold_in(., k + 1), so fewer
    particles are a prefix of more.

    Args:
      rng_key: key of this measurement.
      sampler: the method, static.
      params: weights of the networks.
      problem: the measurement.
      plan: `sampler.plan()`.
      num_particles: P, static.

    Raises:
      UserError: if the method cannot take such a problem.
    """
    sampler.check(problem)
    x_shape = problem.operator.x_shape

    def particle(key: PRNGKey) -> tuple[Array, Info]:
        eps = jax.random.normal(jax.random.fold_in(key, 0), x_shape)
        state = sampler.init(eps, params, problem)
        infos, first = [], 1
        for segment in plan:

            def step(state, xs, segment=segment):
                index, row = xs
                noise = sampler.noise(jax.random.fold_in(key, index), x_shape, segment)
                state = sampler.step(noise, state, params, problem, segment, row)
                return state, step_info(state, problem)

            num = len(jax.tree.leaves(segment.rows)[0])
            state, info = jax.lax.scan(step, state, (jnp.arange(first, first + num), segment.rows))
            infos.append(info)
            first += num
        info = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *infos)
        return sampler.finish(state, params, problem), info

    keys = jax.vmap(lambda p: jax.random.fold_in(rng_key, p))(jnp.arange(num_particles))
    return Samples(*jax.vmap(particle)(keys))


def make_sample_fn(
    sampler: Sampler, *, num_particles: int
) -> Callable[[PRNGKey, Array, Params, Problem, Plan], Samples]:
    """The jitted function (rng_key, index (B,), params, problems, plan) -> Samples of B problems.

    `index` are the images' numbers in their data set: the key of a measurement is folded from it,
    so a result does not depend on the batch it is in. `problems` are stacked on axis 0.
    """

    def run(rng_key, index, params, problems, plan):
        def one(i, problem):
            key = jax.random.fold_in(rng_key, i)
            return sample(key, sampler, params, problem, plan, num_particles=num_particles)

        return jax.vmap(one)(index, problems)

    return jax.jit(run)
