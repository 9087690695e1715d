"""Steps and stored draws of the published runs, and values in double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.samplers.mgdm import GibbsNoise, MGDMNoise

NO_DDIM = jnp.zeros((1, 1, 32, 32, 3))


def rows_of(sampler):
    """(segment, row) of every step."""
    for segment in sampler.plan():
        for i in range(len(jax.tree.leaves(segment.rows)[0])):
            yield segment, jax.tree.map(lambda leaf, i=i: leaf[i], segment.rows)


def noise_of(stored, step: int, image: int = 0) -> MGDMNoise:
    """The five draws of a step with two losses."""
    draws = [stored.image(f"noise_{5 * step + i:03d}")[image] for i in range(5)]
    bridge, first, second, x_tau, renoise = draws
    elbo = jnp.stack([first, second])[None]
    return MGDMNoise(jnp.zeros(()), bridge, GibbsNoise(elbo, x_tau[None], NO_DDIM, renoise[None]))


def wide(tree):
    """Its float32 arrays as float64; call it where x64 is enabled."""

    def widen(leaf):
        value = np.asarray(leaf)
        return jnp.asarray(value, np.float64 if value.dtype == np.float32 else value.dtype)

    return jax.tree.map(widen, tree)


def in_float64(fn):
    """run(params, problems, *inputs) is fn(params, problem, *inputs) of every image, (B, ...).

    Sums of up to 3e5 are compared that way: the spacing of float32 numbers of this size is wider
    than the tolerance, and their rounding depends on how the program is compiled.
    """

    @jax.jit
    def each(params, problems, inputs):
        return jax.vmap(lambda problem, one: fn(params, problem, *one))(problems, inputs)

    def run(params, problems, *inputs):
        with jax.enable_x64(True):
            problems = wide(problems).replace(sigma_y=jnp.full(len(problems.y), 0.05))
            return np.asarray(each(wide(params), problems, wide(inputs)))

    return run
