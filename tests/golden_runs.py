"""Steps and stored draws of the published runs, and values in double precision."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.problems.noise import Gaussian
from lavps_jax.samplers import LAVPS, MGDM, Inner
from lavps_jax.samplers.mgdm import GibbsNoise, MGDMNoise
from lavps_jax.samplers.mgdm_rows import make_block
from lavps_jax.samplers.variational import block_loss, draw, fit


def mgdm_of(stored, start=None) -> MGDM:
    """The sampler of a stored run, with `start` where the run used its network.

    The published rules are texts; what they gave for each step is stored too, and is read here:
    other settings stand in one stretch of steps at the end.
    """
    params, rates = stored.settings["params"], stored.settings["params"]["lr_fn"]["conditions"]
    counts, used = (stored[f"step_{key}"][:: params["n_reps"]] for key in ("n_grad", "used_model"))
    last = (counts != counts[0]) | (used != 0)
    num_last = int(last.sum())
    assert last[len(last) - num_last :].all() and len(set(counts[last])) <= 1
    assert num_last or len(rates) == 1
    rules = {"deterministic": "previous"}
    kind = MGDM if start is None else functools.partial(LAVPS, start, best_of=False)
    return kind(
        inner=Inner(int(counts[0]), rates[-1]["return"], "image"),
        inner_low_noise=Inner(int(counts[-1]), rates[0]["return"], "image"),
        high_idx=1 + num_last,
        num_steps=stored.settings["nsteps"],
        num_gibbs=params["n_reps"],
        num_ddim_steps=params["n_denoising_steps"],
        eta=params["eta"],
        tau_rule=rules.get(params["tau_sampling"], params["tau_sampling"]),
        min_tau=params.get("min_tau", 10),
        num_mixed_steps=params.get("threshold", 70),
    )


def rows_of(sampler):
    """(segment, row) of every step."""
    for segment in sampler.plan(Schedule()):
        for i in range(len(jax.tree.leaves(segment.rows)[0])):
            yield segment, jax.tree.map(lambda leaf, i=i: leaf[i], segment.rows)


def draws_of(stored, step: int) -> list[tuple[str, jax.Array]]:
    """(role, images) of the draws of a step, in the order in which the run asked for them."""
    roles = [str(role) for role in stored["noise_role"]]
    first = [i for i, role in enumerate(roles) if role == "bridge"] + [len(roles)]
    return [(roles[i], stored.image(f"noise_{i:03d}")) for i in range(*first[step : step + 2])]


def noise_of(stored, step: int, image: int = 0) -> MGDMNoise:
    """The draws of a step, those of a comparison of starts with the first of them."""
    (_, bridge), *draws = draws_of(stored, step)
    zero, repetitions = jnp.zeros_like(bridge[image]), []
    for role, images in draws:
        if not repetitions or "renoise" in repetitions[-1]:
            repetitions.append({"elbo": [], "ddim": []})
        if role in ("elbo", "ddim"):
            repetitions[-1][role].append(images[image])
        else:
            repetitions[-1][role] = images[image]
    gibbs = [
        GibbsNoise(
            jnp.stack(one["elbo"] or [zero]),
            one["x_tau"],
            jnp.stack(one["ddim"] or [zero]),
            one["renoise"],
        )
        for one in repetitions
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gibbs)
    return MGDMNoise(jnp.zeros(()), bridge[image], stacked)


def wide(tree):
    """Its float32 arrays as float64; call it where x64 is enabled."""

    def widen(leaf):
        value = np.asarray(leaf)
        return jnp.asarray(value, np.float64 if value.dtype == np.float32 else value.dtype)

    return jax.tree.map(widen, tree)


def in_float64(fn, networks):
    """run(problems, *inputs) is fn(networks, problem, *inputs) of every image, (B, ...).

    Sums of up to 3e5 are compared that way: the spacing of float32 numbers of this size is wider
    than the tolerance, and their rounding depends on how the program is compiled.
    """

    @jax.jit
    def each(networks, problems, inputs):
        return jax.vmap(lambda problem, one: fn(networks, problem, *one))(problems, inputs)

    def run(problems, *inputs):
        with jax.enable_x64(True):
            exact = Gaussian(jnp.asarray(exact_sigma_y(problems)))
            problems = wide(problems).replace(noise=exact)
            return jax.tree.map(np.asarray, each(wide(networks), problems, wide(inputs)))

    return run


def exact_sigma_y(problems):
    """0.05 itself and not the float32 number next to it, float64 (B,)."""
    return np.array([float(str(one)) for one in np.asarray(problems.noise.sigma)])


def inner_problem(prior, start):
    """run(problems, states, rows, noise) -> (losses (B, K), x_tau) of the first repetition of a
    step, in double precision."""

    def solve(networks, problem, state, rows, noise):
        (prior, start), row = networks, rows.choose(noise.tau_place)
        x_t = bridge_draw(noise.bridge, row.bridge, state.x_t, state.x_0)
        block = make_block(row, state.x_0, x_t)

        def loss_fn(mu, rho, eps):
            return block_loss(mu, rho, eps, prior, problem, block)

        loss_eps = noise.gibbs.loss_eps[0]
        mu, rho = start(problem, start.prepare(problem), block, loss_eps[0], loss_fn)
        mu, rho, losses = fit(mu, rho, loss_eps, loss_fn, optax.adam(row.learning_rate))
        return losses, draw(noise.gibbs.x_tau[0], mu, rho)

    return in_float64(solve, (prior, start))


def noise_of_hidden_entries(problems):
    """What the published likelihood counts besides, float64 (B,): the noise of masked entries."""
    hidden = np.asarray(jax.vmap(lambda p: p.y - p.operator.project(p.y))(problems), np.float64)
    return np.sum(hidden**2, axis=(1, 2, 3)) / (2 * exact_sigma_y(problems) ** 2)


def batch_of_one(*trees):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], trees)
