"""Steps and stored draws of the published runs, and values in double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lavps_jax.diffusion import bridge_draw
from lavps_jax.samplers.mgdm import GibbsNoise, MGDMNoise, make_block
from lavps_jax.variational import block_loss, draw, fit

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
            return jax.tree.map(np.asarray, each(wide(params), problems, wide(inputs)))

    return run


def inner_problem(denoiser, settings):
    """run(params, problems, states, rows, noise) -> (losses (B, K), x_tau) of the only repetition
    in a step, in double precision; all arguments but the first have a batch axis."""

    def solve(params, problem, state, rows, noise):
        row = rows.choose(noise.tau)
        x_t = bridge_draw(noise.bridge, row.bridge, state.x_t, state.x_0)
        block = make_block(row, state.x_0, x_t)

        def loss_fn(mu, rho, eps):
            return block_loss(mu, rho, eps, denoiser, params, problem, block)

        elbo = noise.gibbs.elbo[0]
        start = settings.start(params, problem, block, elbo[0], loss_fn)
        mu, rho, losses = fit(*start, elbo, loss_fn, optax.adam(row.learning_rate))
        return losses, draw(noise.gibbs.x_tau[0], mu, rho)

    return in_float64(solve)


def noise_of_hidden_entries(problems):
    """What the published likelihood counts besides, float64 (B,): the noise of masked entries."""
    hidden = np.asarray(jax.vmap(lambda p: p.y - p.operator.project(p.y))(problems), np.float64)
    return np.sum(hidden**2, axis=(1, 2, 3)) / (2 * 0.05**2)


def batch_of_one(*trees):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trees)
