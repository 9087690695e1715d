"""Draws samples: one compiled program over steps, particles and measurements."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.errors import UserError
from lavps_jax.problems.problem import Problem, homoscedastic
from lavps_jax.samplers.base import Plan, Sampler, Segment, State, is_finite
from lavps_jax.types import PRNGKey


class Samples(NamedTuple):
    """Posterior samples of one measurement; of a stack of B with B on axis 0.

    Attributes:
      x_0: float (P, H, W, C), nominally in [-1, 1], not clipped.
      is_finite: whether the state after each step is finite, bool (P, steps).
    """

    x_0: Float[Array, "P H W C"]
    is_finite: Bool[Array, "P steps"]


def sample(
    rng_key: PRNGKey,
    sampler: Sampler,
    prior: Denoiser,
    problem: Problem,
    *,
    num_particles: int = 1,
) -> Samples:
    """Draws posterior samples of one measurement, or of each of a stack of measurements.

    One program is compiled for a sampler's static settings, the shapes and the number of
    particles: other numbers, weights, measurements and keys run it again. All arguments but
    `num_particles` may be traced: the function works under `jax.vmap`, `jax.grad` and `jax.jit`.

    Particle p uses the key fold_in(rng_key, p) and step k of it fold_in(., k + 1), so fewer
    particles are a prefix of more.

    Args:
      rng_key: key of this measurement. Of a stack either one key per measurement, (B,), or one
        from which they are folded, fold_in(rng_key, b).
      sampler: the method.
      prior: the denoiser.
      problem: one measurement, or a stack with measurements on axis 0 of every leaf.
      num_particles: P, static.

    Raises:
      UserError: if the method cannot take such a problem, or an argument is of another kind.
    """
    if not isinstance(sampler, Sampler):
        raise UserError("sampler", type(sampler).__name__, "give one of lavps_jax.samplers")
    if not isinstance(prior, Denoiser):
        raise UserError("prior", type(prior).__name__, "give a denoiser: what load_prior returns")
    if not isinstance(problem, Problem):
        raise UserError("problem", type(problem).__name__, "give a Problem: what simulate returns")
    if num_particles < 1 or num_particles != int(num_particles):
        raise UserError("num_particles", num_particles, "use a whole number from 1 on")
    rng_key, size = _check_key(rng_key), _stack_size(problem)
    plan = sampler.plan(prior.schedule)
    # Numbers of Python enter a program as another type than arrays do.
    sampler = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), sampler)
    arguments = sampler, prior, problem, plan, int(num_particles)
    if size is None:
        if rng_key.shape != ():
            raise UserError("rng_key", f"shape {rng_key.shape}", "give one key, for one problem")
        return _sample_one(rng_key, *arguments)
    if rng_key.shape == ():
        rng_key = jax.vmap(lambda b: jax.random.fold_in(rng_key, b))(jnp.arange(size))
    if rng_key.shape != (size,):
        raise UserError("rng_key", f"shape {rng_key.shape}", f"give one key, or {size} of them")
    return _sample_stack(rng_key, *arguments)


@partial(jax.jit, static_argnames="num_particles")
def _sample_one(
    rng_key: PRNGKey,
    sampler: Sampler,
    prior: Denoiser,
    problem: Problem,
    plan: Plan,
    num_particles: int,
) -> Samples:
    problem = homoscedastic(problem)
    sampler.check(problem)

    def particle(key: PRNGKey) -> tuple[Array, Array]:
        state = initial_state(key, sampler, prior, problem)
        finite, first = [], 0
        for segment in plan:

            def step(state, xs, segment=segment):
                index, row = xs
                return one_step(key, index, row, state, sampler, prior, problem, segment)

            num = len(jax.tree.leaves(segment.rows)[0])
            index = jnp.arange(first, first + num)
            state, steps = jax.lax.scan(step, state, (index, segment.rows))
            finite.append(steps)
            first += num
        return sampler.finish(state, prior, problem), jnp.concatenate(finite)

    return Samples(*jax.vmap(particle)(particle_keys(rng_key, num_particles)))


def particle_keys(rng_key: PRNGKey, num_particles: int) -> PRNGKey:
    """The keys of the particles of one measurement, (P,)."""
    return jax.vmap(lambda p: jax.random.fold_in(rng_key, p))(jnp.arange(num_particles))


def initial_state(key: PRNGKey, sampler: Sampler, prior: Denoiser, problem: Problem) -> State:
    """The state of one particle before its first step."""
    eps = jax.random.normal(jax.random.fold_in(key, 0), problem.operator.x_shape)
    return sampler.init(eps, prior, problem)


def one_step(
    key: PRNGKey,
    index: Int[Array, ""],
    row: Any,
    state: State,
    sampler: Sampler,
    prior: Denoiser,
    problem: Problem,
    segment: Segment,
) -> tuple[State, Bool[Array, ""]]:
    """One step of one particle, and whether its state is finite.

    Args:
      key: of the particle.
      index: how many steps were before this one.
      row: the step's slice of `segment.rows`.
    """
    x_shape = problem.operator.x_shape
    noise = sampler.noise(jax.random.fold_in(key, 1 + index), x_shape, segment)
    state = sampler.step(noise, state, prior, problem, segment, row)
    return state, is_finite(state)


@partial(jax.jit, static_argnames="num_particles")
def _sample_stack(
    rng_keys: PRNGKey,
    sampler: Sampler,
    prior: Denoiser,
    problems: Problem,
    plan: Plan,
    num_particles: int,
) -> Samples:
    def one(key: PRNGKey, problem: Problem) -> Samples:
        return _sample_one(key, sampler, prior, problem, plan, num_particles)

    return jax.vmap(one)(rng_keys, problems)


def _check_key(rng_key: PRNGKey) -> PRNGKey:
    """The key or keys in JAX's typed form."""
    dtype, shape = jnp.result_type(rng_key), jnp.shape(rng_key)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return rng_key
    if dtype == jnp.uint32 and len(shape) in (1, 2):
        return jax.random.wrap_key_data(rng_key)
    raise UserError("rng_key", f"{dtype} of shape {shape}", "give jax.random.key(seed)")


def _stack_size(problem: Problem) -> int | None:
    """Number of measurements of a stack; None of a single one."""
    shape, single = jnp.shape(problem.y), problem.y_shape
    if shape == single:
        return None
    remedy = "stack the leaves of all problems on axis 0"
    if single is None or len(shape) != len(single) + 1:
        raise UserError("problem", f"y of shape {shape}, one has {single}", remedy)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(problem)}
    if lengths != {shape[:1]}:
        raise UserError("problem", f"leaves with {sorted(lengths)} on axis 0", remedy)
    return shape[0]
