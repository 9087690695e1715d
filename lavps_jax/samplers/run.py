"""Runs a sampler: one compiled program over steps, particles and measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lavps_jax.errors import UserError
from lavps_jax.samplers.base import Plan, Sampler, is_finite
from lavps_jax.types import Params, PRNGKey, Problem

__all__ = ["Samples", "make_sample_fn", "sample"]


class Samples(NamedTuple):
    """Posterior samples of one measurement.

    Attributes:
      x_0: float (P, H, W, C), nominally in [-1, 1], not clipped.
      is_finite: whether the state after each step is finite, bool (P, steps).
    """

    x_0: Float[Array, "P H W C"]
    is_finite: Bool[Array, "P steps"]


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
      UserError: if the method cannot take such a problem, or an argument is of another kind: a
        stack of problems, an integer as the key, no weights, the plan of another sampler.
    """
    _check_key(rng_key)
    _check_problem(problem)
    _check_plan(plan, sampler)
    if num_particles < 1 or num_particles != int(num_particles):
        raise UserError("num_particles", num_particles, "use a whole number from 1 on")
    sampler.check(problem)
    x_shape = problem.operator.x_shape

    def particle(key: PRNGKey) -> tuple[Array, Array]:
        eps = jax.random.normal(jax.random.fold_in(key, 0), x_shape)
        state = sampler.init(eps, params, problem)
        finite, first = [], 1
        for segment in plan:

            def step(state, xs, segment=segment):
                index, row = xs
                noise = sampler.noise(jax.random.fold_in(key, index), x_shape, segment)
                state = sampler.step(noise, state, params, problem, segment, row)
                return state, is_finite(state)

            num = len(jax.tree.leaves(segment.rows)[0])
            state, steps = jax.lax.scan(step, state, (jnp.arange(first, first + num), segment.rows))
            finite.append(steps)
            first += num
        return sampler.finish(state, params, problem), jnp.concatenate(finite)

    keys = jax.vmap(lambda p: jax.random.fold_in(rng_key, p))(jnp.arange(num_particles))
    try:
        return Samples(*jax.vmap(particle)(keys))
    except KeyError as error:
        name = error.args[0] if error.args else None
        if name not in ("theta", "phi") or name in params:
            raise
        remedy = f'give {{"{name}": weights, ...}}: load_prior and build_sampler return them'
        raise UserError("params", f"no weights {name}", remedy) from error


def _check_key(rng_key: PRNGKey) -> None:
    dtype, shape = jnp.result_type(rng_key), jnp.shape(rng_key)
    new = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not new and not (dtype == jnp.uint32 and len(shape) == 1):
        remedy = "give one key, jax.random.key(seed); that of an image is folded from it"
        raise UserError("rng_key", f"{dtype} of shape {shape}", remedy)


def _check_problem(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise UserError("problem", type(problem).__name__, "give what make_problem returns")
    if jnp.shape(problem.sigma_y) != ():
        remedy = "give one problem, or stacked ones to the function of make_sample_fn"
        raise UserError("problem", f"sigma_y of shape {jnp.shape(problem.sigma_y)}", remedy)
    if jnp.shape(problem.y) != problem.operator.y_shape:
        remedy = f"give what the operator measures of one image, shape {problem.operator.y_shape}"
        raise UserError("y", f"shape {jnp.shape(problem.y)}", remedy)


def _check_plan(plan: Plan, sampler: Sampler) -> None:
    def rows(plan: Plan) -> list:
        return [jax.tree.structure(segment.rows) for segment in plan]

    if not plan or rows(plan) != rows(sampler.plan()):
        remedy = "give plan() of this sampler"
        raise UserError("plan", f"{len(plan)} segments of another kind", remedy)


def _check_stack(index: Array, problems: Problem) -> None:
    if not isinstance(problems, Problem):
        raise UserError("problems", type(problems).__name__, "give one Problem of stacked leaves")
    remedy = "stack problems on axis 0, a single one too: "
    remedy += "jax.tree.map(lambda leaf: leaf[None], problem)"
    shape = jnp.shape(problems.sigma_y)
    if len(shape) != 1:
        raise UserError("problems", f"sigma_y of shape {shape}", remedy)
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(problems)}
    if lengths != {shape}:
        raise UserError("problems", f"leaves with {sorted(lengths)} on axis 0", remedy)
    is_array = isinstance(index, jax.Array)
    if not is_array or index.shape != shape or not jnp.issubdtype(index.dtype, jnp.integer):
        found = f"{index.dtype} of shape {index.shape}" if is_array else type(index).__name__
        remedy = f"give the number of each image, an integer array of shape {shape}"
        raise UserError("index", found, remedy)


def make_sample_fn(
    sampler: Sampler, *, num_particles: int
) -> Callable[[PRNGKey, Array, Params, Problem, Plan], Samples]:
    """The jitted function (rng_key, index (B,), params, problems, plan) -> Samples of B problems.

    `index` are the images' numbers in their data set: the key of a measurement is folded from it,
    so a result does not depend, but for rounding, on the batch it is in. `problems` are stacked on
    axis 0.

    Raises:
      UserError: as `sample`, or if problems are not stacked; when the function is traced.
    """

    def run(rng_key, index, params, problems, plan):
        _check_key(rng_key)
        _check_stack(index, problems)

        def one(i, problem):
            key = jax.random.fold_in(rng_key, i)
            return sample(key, sampler, params, problem, plan, num_particles=num_particles)

        return jax.vmap(one)(index, problems)

    return jax.jit(run)
