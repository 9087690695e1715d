"""Whole runs of the published samplers, replayed with their noise: each step alone, then all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import cases
from golden_runs import (
    batch_of_one,
    in_float64,
    inner_problem,
    mgdm_of,
    noise_of,
    noise_of_hidden_entries,
    rows_of,
)

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.schedules import time_grid
from lavps_jax.samplers import DDIM, DPS, MGDM, State
from lavps_jax.samplers.starts import ZeroShot


def test_mgdm(golden, prior):
    stored = golden("traj_mgdm")
    sampler = mgdm_of(stored)
    batched = jax.vmap(sampler.step, (0, 0, None, 0, None, None))
    step, init = jax.jit(batched), jax.jit(jax.vmap(sampler.init, (0, None, 0)))
    solve = inner_problem(prior, ZeroShot())
    problems = stored.problems("y", "img")
    count = len(problems.y)
    hidden = noise_of_hidden_entries(problems).sum()
    whole = state = init(stored.image("initial_noise"), prior, problems)
    stored.close("init_x0", state.x_0)
    rows = list(rows_of(sampler))
    assert len(rows) * sampler.num_gibbs == len(stored["step_t"])
    for k, (segment, row) in enumerate(rows):
        # A step has a row for each of its repetitions.
        first, last = k * sampler.num_gibbs, (k + 1) * sampler.num_gibbs - 1
        times = stored["step_t"][first], stored["step_tau"][first]
        assert (row.choices.t[0], row.choices.tau[0]) == times
        each = [noise_of(stored, k, i) for i in range(count)]
        noise = jax.tree.map(lambda *v: jnp.stack(v), *each)
        same = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), row)
        losses, x_tau = solve(problems, state, same, noise)
        num_losses = losses.shape[1]
        stored.close("step_losses", losses.sum(0) + hidden, (first, slice(num_losses)))
        stored.close("step_x_tau", x_tau, first)
        for start in (state, whole):
            new = step(noise, start, prior, problems, segment, row)
            stored.close("step_x_0", new.x_0, last)
            stored.close("step_x_t", new.x_t, last)
        whole = new
        state = State(*(stored.image(f"step_x_{name}")[last] for name in ("t", "0")))
    stored.close("final_x0", whole.x_0)


def test_mgdm_with_drawn_block_times(golden, prior):
    stored = golden("traj_mgdm_mix")
    sampler = mgdm_of(stored)
    step, init = jax.jit(sampler.step), jax.jit(sampler.init)
    solve = inner_problem(prior, ZeroShot())
    problem = jax.tree.map(lambda leaf: leaf[0], stored.problems("y", "img"))
    hidden = noise_of_hidden_entries(batch_of_one(problem)[0])

    # The run as a whole in double precision: the first step of Adam has the size of its rate
    # whatever the gradient is, so that the rounding of one near 0 grows to 1e-2.
    def exact_step(prior, problem, noise, state, segment, row):
        return sampler.step(noise, state, prior, problem, segment, row)

    exactly = in_float64(exact_step, prior)
    state = init(stored.image("initial_noise")[0], prior, problem)
    whole = batch_of_one(state)[0]
    stored.close("init_x0", state.x_0, 0)
    np.testing.assert_array_equal(stored["tau_draws"], stored["step_tau"][:: sampler.num_gibbs])
    for k, (segment, row) in enumerate(rows_of(sampler)):
        first, last = k * sampler.num_gibbs, (k + 1) * sampler.num_gibbs - 1
        tau, count = int(stored["step_tau"][first]), int(row.count)
        assert row.choices.t[0] == stored["step_t"][first]
        place = list(np.asarray(row.choices.tau[:count])).index(tau)
        noise = noise_of(stored, k)._replace(tau_place=jnp.float32((place + 0.5) / count))
        losses, x_tau = solve(*batch_of_one(problem, state, row, noise))
        stored.close("step_losses", losses[0] + hidden, (first, slice(losses.shape[1])))
        stored.close("step_x_tau", x_tau, first)
        alone = step(noise, state, prior, problem, segment, row)
        fixed = batch_of_one(problem, noise, segment, row)
        whole = exactly(fixed[0], fixed[1], whole, *fixed[2:])
        for new in (alone, jax.tree.map(lambda leaf: leaf[0], whole)):
            stored.close("step_x_0", new.x_0, (last, 0))
            stored.close("step_x_t", new.x_t, (last, 0))
        state = State(*(stored.image(f"step_x_{name}")[last, 0] for name in ("t", "0")))
    end = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), whole)
    stored.close("final_x0", sampler.finish(end, prior, problem), 0)


def test_block_times_are_drawn_evenly_from_their_range():
    rows = [row for _, row in rows_of(MGDM(num_steps=100, tau_rule="mix"))]
    times = time_grid(100)
    for step, row in enumerate(rows):
        t_prev = int(times[97 - step])
        u = jnp.linspace(0.0, 1.0, 5000, endpoint=False)
        drawn = np.asarray(jax.vmap(lambda u, row=row: row.choose(u).tau)(u))
        expected = np.arange(10, t_prev) if step < 70 else np.array([t_prev])
        found, counts = np.unique(drawn, return_counts=True)
        np.testing.assert_array_equal(found, expected)
        assert np.ptp(counts) <= 2
    assert len(rows) == 97


@pytest.mark.parametrize("tag", cases("traj_dps", "(.+)_step_x_t"))
def test_dps(golden, prior, tag):
    """The published norm also counts the noise drawn at hidden pixels, so that its steps are
    shorter on masks: the part of a step that the measurement makes is shortened for it."""
    stored = golden("traj_dps")
    (settings,) = (one for one in stored.settings["cases"] if one["tag"] == tag)
    num_steps = stored.settings["nsteps"]
    # The published gamma multiplies the gradient of ||r||^2 over ||r||, twice that of ||r||.
    step_size = 2 * settings["gamma"]
    sampler = DPS(num_steps=num_steps, step_size=step_size, eta=settings["eta"])
    problem = jax.tree.map(lambda leaf: leaf[0], stored.problems(f"{tag}_y", f"{tag}_img"))
    hidden = jnp.sum((problem.y - problem.operator.project(problem.y)) ** 2)

    @jax.jit
    def step(noise, state, problem, segment, row):
        new = sampler.step(noise, state, prior, problem, segment, row)
        plain = bridge_draw(noise, row.bridge, state.x_t, new.x_0)
        residual = problem.operator.project(problem.y - problem.operator.forward(new.x_0))
        square = jnp.sum(residual**2)
        shorter = plain + jnp.sqrt(square / (square + hidden)) * (new.x_t - plain)
        return State(jnp.where(hidden > 0, shorter, new.x_t), new.x_0)

    eps = stored.image(f"{tag}_initial_noise")[0]
    whole = state = State(eps, jnp.zeros_like(eps))
    rows = list(rows_of(sampler))
    assert len(rows) == len(stored[f"{tag}_step_x_t"])
    for k, (segment, row) in enumerate(rows):
        noise = stored.image(f"{tag}_noise_{k:03d}")[0]
        for start in (state, whole):
            stored.close(f"{tag}_step_x_t", start.x_t, (k, 0))
            new = step(noise, start, problem, segment, row)
            stored.close(f"{tag}_step_x_0", new.x_0, (k, 0))
        whole = new
        if k + 1 < len(rows):
            state = State(stored.image(f"{tag}_step_x_t")[k + 1, 0], new.x_0)
    result = jax.jit(sampler.finish)(whole, prior, problem)
    stored.close(f"{tag}_final_x0", result, 0)


@pytest.mark.parametrize("eta", cases("traj_dps", "ddim_eta(.+)_final_x0"))
def test_ddim(golden, prior, eta):
    stored = golden("traj_dps")
    sampler = DDIM(num_steps=stored.settings["nsteps"], eta=float(eta))
    step = jax.jit(sampler.step)
    tag = stored.settings["cases"][0]["tag"]  # DDIM does not look at the measurement.
    problem = jax.tree.map(lambda leaf: leaf[0], stored.problems(f"{tag}_y", f"{tag}_img"))
    eps = stored.image(f"ddim_eta{eta}_initial_noise")[0]
    state = jax.jit(sampler.init)(eps, prior, problem)
    for k, (segment, row) in enumerate(rows_of(sampler)):
        noise = stored.image(f"ddim_eta{eta}_noise_{k:03d}")[0]
        state = step(noise, state, prior, problem, segment, row)
    stored.close(f"ddim_eta{eta}_final_x0", sampler.finish(state, prior, problem), 0)
