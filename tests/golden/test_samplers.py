"""Whole runs of the published samplers, replayed with their noise: each step alone, then all."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_runs import (
    batch_of_one,
    in_float64,
    inner_problem,
    noise_of,
    noise_of_hidden_entries,
    rows_of,
)

from lavps_jax.likelihoods import make_problem
from lavps_jax.operators import Inpainting, SuperResolution
from lavps_jax.samplers import DDIM, DPS, MGDM, Inner, State
from lavps_jax.schedules import time_grid

OPERATOR = SuperResolution(4, x_shape=(32, 32, 3))


def test_mgdm(golden, prior):
    stored, (denoiser, params) = golden("traj_mgdm"), prior
    inner = Inner(2, 0.03, learning_rate_unit="image")
    sampler = MGDM(denoiser, inner, inner, num_steps=12, tau_rule="previous")
    batched = jax.vmap(sampler.step, (0, 0, None, 0, None, None))
    step, init = jax.jit(batched), jax.jit(jax.vmap(sampler.init, (0, None, 0)))
    solve = inner_problem(denoiser, sampler.inner)
    problems = jax.vmap(lambda y: make_problem(y, OPERATOR, 0.05))(stored.measurement("y", 8, 8))
    whole = state = init(stored.image("initial_noise"), params, problems)
    stored.close("init_x0", state.x_0)
    rows = list(rows_of(sampler))
    assert len(rows) == len(stored["step_t"])
    for k, (segment, row) in enumerate(rows):
        assert (row.rows.t[0], row.rows.tau[0]) == (stored["step_t"][k], stored["step_tau"][k])
        noise = jax.tree.map(lambda *v: jnp.stack(v), *(noise_of(stored, k, i) for i in (0, 1)))
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), row)
        losses, x_tau = solve(params, problems, state, both, noise)
        stored.close("step_losses", losses.sum(0), k)
        stored.close("step_x_tau", x_tau, k)
        for start in (state, whole):
            new = step(noise, start, params, problems, segment, row)
            stored.close("step_x_0", new.x_0, k)
            stored.close("step_x_t", new.x_t, k)
        whole = new
        state = State(*(stored.image(f"step_x_{name}")[k] for name in ("t", "0")))
    stored.close("final_x0", whole.x_0)


def test_mgdm_with_drawn_block_times(golden, prior):
    stored, (denoiser, params) = golden("traj_mgdm_mix"), prior
    inner = Inner(2, 0.03, learning_rate_unit="image")
    sampler = MGDM(denoiser, inner, inner, num_steps=12, tau_rule="mix")
    step, init = jax.jit(sampler.step), jax.jit(sampler.init)
    solve = inner_problem(denoiser, inner)
    mask = jnp.moveaxis(jnp.asarray(stored["mask"][0, 0]), 0, -1)
    operator = Inpainting(mask, x_shape=(32, 32, 3))
    problem = make_problem(stored.measurement("y")[0], operator, 0.05)
    hidden = noise_of_hidden_entries(batch_of_one(problem)[0])

    # The run as a whole in double precision: the first step of Adam has the size of its rate
    # whatever the gradient is, so that the rounding of one near 0 grows to 1e-2.
    @in_float64
    def exactly(params, problem, noise, state, segment, row):
        return sampler.step(noise, state, params, problem, segment, row)

    state = init(stored.image("initial_noise")[0], params, problem)
    whole = batch_of_one(state)[0]
    stored.close("init_x0", state.x_0, 0)
    np.testing.assert_array_equal(stored["tau_draws"], stored["step_tau"])
    for k, (segment, row) in enumerate(rows_of(sampler)):
        tau, count = int(stored["step_tau"][k]), int(row.count)
        assert row.rows.t[0] == stored["step_t"][k]
        place = list(np.asarray(row.rows.tau[:count])).index(tau)
        noise = noise_of(stored, k)._replace(tau=jnp.float32((place + 0.5) / count))
        losses, x_tau = solve(params, *batch_of_one(problem, state, row, noise))
        stored.close("step_losses", losses[0] + hidden, k)
        stored.close("step_x_tau", x_tau, k)
        alone = step(noise, state, params, problem, segment, row)
        fixed = batch_of_one(problem, noise, segment, row)
        whole = exactly(params, fixed[0], fixed[1], whole, *fixed[2:])
        for new in (alone, jax.tree.map(lambda leaf: leaf[0], whole)):
            stored.close("step_x_0", new.x_0, (k, 0))
            stored.close("step_x_t", new.x_t, (k, 0))
        state = State(*(stored.image(f"step_x_{name}")[k, 0] for name in ("t", "0")))
    last = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), whole)
    stored.close("final_x0", sampler.finish(last, params, problem), 0)


def test_block_times_are_drawn_evenly_from_their_range(prior):
    sampler = MGDM(prior[0], num_steps=100, tau_rule="mix")
    rows = [row for _, row in rows_of(sampler)]
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


@pytest.mark.parametrize("case", [0, 1])
def test_dps(golden, prior, case):
    stored, (denoiser, params) = golden("traj_dps"), prior
    settings = stored.settings["cases"][case]
    tag = settings["tag"]
    sampler = DPS(denoiser, num_steps=12, gamma=settings["gamma"], eta=settings["eta"])
    step = jax.jit(sampler.step)
    problem = make_problem(stored.measurement(f"{tag}_y", 8, 8)[0], OPERATOR, 0.05)
    whole = state = State(stored.image(f"{tag}_initial_noise")[0], jnp.zeros((32, 32, 3)))
    rows = list(rows_of(sampler))
    assert len(rows) == len(stored[f"{tag}_step_x_t"])
    for k, (segment, row) in enumerate(rows):
        noise = stored.image(f"{tag}_noise_{k:03d}")[0]
        for start in (state, whole):
            stored.close(f"{tag}_step_x_t", start.x_t, (k, 0))
            new = step(noise, start, params, problem, segment, row)
            stored.close(f"{tag}_step_x_0", new.x_0, (k, 0))
        whole = new
        if k + 1 < len(rows):
            state = State(stored.image(f"{tag}_step_x_t")[k + 1, 0], new.x_0)
    result = jax.jit(sampler.finish)(whole, params, problem)
    stored.close(f"{tag}_final_x0", result, 0)


@pytest.mark.parametrize("eta", [0, 1])
def test_ddim(golden, prior, eta):
    stored, (denoiser, params) = golden("traj_dps"), prior
    sampler = DDIM(denoiser, num_steps=12, eta=float(eta))
    step = jax.jit(sampler.step)
    problem = make_problem(stored.measurement("sr_eta1_y", 8, 8)[0], OPERATOR, 0.05)
    eps = stored.image(f"ddim_eta{eta}_initial_noise")[0]
    state = jax.jit(sampler.init)(eps, params, problem)
    for k, (segment, row) in enumerate(rows_of(sampler)):
        noise = stored.image(f"ddim_eta{eta}_noise_{k:03d}")[0]
        state = step(noise, state, params, problem, segment, row)
    stored.close(f"ddim_eta{eta}_final_x0", sampler.finish(state, params, problem), 0)
