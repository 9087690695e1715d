"""Whole runs of the published samplers, replayed with their noise."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lavps_jax.diffusion import EDMDenoiser
from lavps_jax.likelihoods import make_problem
from lavps_jax.networks import PaletteConfig, split
from lavps_jax.operators import SuperResolution
from lavps_jax.samplers import DDIM, DPS, MGDM, Inner, State
from lavps_jax.samplers.mgdm import GibbsNoise, MGDMNoise
from lavps_jax.starts import Amortized, ZeroShot

DATA = Path(__file__).parents[1] / "data"
OPERATOR = SuperResolution(4, x_shape=(32, 32, 3))


def hwc(images: np.ndarray) -> jax.Array:
    return jnp.asarray(np.moveaxis(images, -3, -1))


@pytest.fixture(scope="module")
def prior(prior_golden):
    model, weights = split(prior_golden.config.build(nnx.Rngs(0)))
    return EDMDenoiser(model), {"theta": prior_golden.load_weights(weights)}


def problem_of(y: np.ndarray):
    return make_problem(hwc(y.reshape(3, 8, 8)), OPERATOR, 0.05)


def rows_of(sampler):
    """(segment, row) of every step."""
    for segment in sampler.plan():
        for i in range(len(jax.tree.leaves(segment.rows)[0])):
            yield segment, jax.tree.map(lambda leaf, i=i: leaf[i], segment.rows)


def test_mgdm_steps_and_run(prior):
    denoiser, params = prior
    golden = dict(np.load(DATA / "traj_mgdm_golden.npz"))
    sampler = MGDM(denoiser, Inner(2, 0.03), Inner(2, 0.03), num_steps=12)
    step, init = jax.jit(sampler.step), jax.jit(sampler.init)
    draws = [hwc(golden[f"noise_{i:03d}"][:1])[0] for i in range(45)]
    problem = problem_of(golden["y"][0])
    whole = state = init(hwc(golden["initial_noise"])[0], params, problem)
    # Ten times the float32 error of the published run, for each array.
    np.testing.assert_allclose(state.x_0, hwc(golden["init_x0"])[0], rtol=0, atol=1.9e-4)
    rows = list(rows_of(sampler))
    assert len(rows) == 9
    for k, (segment, row) in enumerate(rows):
        assert (row.t, row.tau) == (golden["step_t"][k], golden["step_tau"][k])
        bridge, first, second, x_tau, renoise = draws[5 * k : 5 * k + 5]
        gibbs = GibbsNoise(
            jnp.stack([first, second])[None],
            x_tau[None],
            jnp.zeros((1, 1, 32, 32, 3)),
            renoise[None],
        )
        noise = MGDMNoise(bridge, gibbs)
        alone = step(noise, state, params, problem, segment, row)
        whole = step(noise, whole, params, problem, segment, row)
        x_0, x_t = hwc(golden["step_x_0"][k])[0], hwc(golden["step_x_t"][k])[0]
        for new in (alone, whole):
            np.testing.assert_allclose(new.x_0, x_0, rtol=0, atol=7e-5)
            np.testing.assert_allclose(new.x_t, x_t, rtol=0, atol=2.6e-5)
        state = State(x_t, x_0)
    result = sampler.finish(whole, params, problem)
    np.testing.assert_allclose(result, hwc(golden["final_x0"])[0], rtol=0, atol=3.9e-5)


def test_lavps_steps(prior, palette_golden):
    """Every step from the published state before it, with the start that won there.

    The published comparison of starts uses two draws and one winner per batch; here it is one draw
    and each particle for itself, so the winner is taken from the file.
    """
    denoiser, params = prior
    config = PaletteConfig(palette_golden.config, noise_embedding="linear")
    model, weights = split(config.build(nnx.Rngs(0)))
    params = params | {"phi": palette_golden.load_weights(weights)}
    golden = dict(np.load(DATA / "traj_lavps_golden.npz"))
    problem = problem_of(golden["y"][0])
    problem = problem.replace(x_pinv=OPERATOR.pinv(problem.y))
    starts = {0: Amortized(model), 1: ZeroShot()}
    samplers = {
        winner: MGDM(denoiser, Inner(2), Inner(2, start=start), high_idx=6, num_steps=12)
        for winner, start in starts.items()
    }
    steps = {winner: jax.jit(sampler.step) for winner, sampler in samplers.items()}
    rows = {winner: list(rows_of(sampler)) for winner, sampler in samplers.items()}
    draws = [hwc(golden[f"noise_{i:03d}"]) for i in range(45)]
    state = State(hwc(golden["initial_noise"])[0], hwc(golden["init_x0"])[0])
    assert set(golden["step_best_idx"]) == {-1, 0, 1}
    for k, winner in enumerate(golden["step_best_idx"]):
        bridge, first, second, x_tau, renoise = draws[5 * k : 5 * k + 5]
        elbo = jnp.stack([first[max(winner, 0)], second[0]])
        gibbs = GibbsNoise(elbo[None], x_tau, jnp.zeros((1, 1, 32, 32, 3)), renoise)
        segment, row = rows[abs(int(winner))][k]
        noise = MGDMNoise(bridge[0], gibbs)
        new = steps[abs(int(winner))](noise, state, params, problem, segment, row)
        x_0, x_t = hwc(golden["step_x_0"][k])[0], hwc(golden["step_x_t"][k])[0]
        np.testing.assert_allclose(new.x_0, x_0, rtol=0, atol=1.1e-4)
        np.testing.assert_allclose(new.x_t, x_t, rtol=0, atol=8.1e-5)
        state = State(x_t, x_0)


def test_dps_run(prior):
    denoiser, params = prior
    golden = dict(np.load(DATA / "traj_dps_golden.npz"))
    sampler = DPS(denoiser, num_steps=12, gamma=0.5, eta=1.0)
    step = jax.jit(sampler.step)
    problem = problem_of(golden["sr_eta1_y"][0])
    state = State(hwc(golden["sr_eta1_initial_noise"])[0], jnp.zeros((32, 32, 3)))
    rows = list(rows_of(sampler))
    assert len(rows) == 10
    for k, (segment, row) in enumerate(rows):
        x_t = hwc(golden["sr_eta1_step_x_t"][k])[0]
        np.testing.assert_allclose(state.x_t, x_t, rtol=0, atol=8.8e-6)
        noise = hwc(golden[f"sr_eta1_noise_{k:03d}"])[0]
        state = step(noise, state, params, problem, segment, row)
        x_0 = hwc(golden["sr_eta1_step_x_0"][k])[0]
        np.testing.assert_allclose(state.x_0, x_0, rtol=0, atol=1.9e-4)
    result = jax.jit(sampler.finish)(state, params, problem)
    np.testing.assert_allclose(result, hwc(golden["sr_eta1_final_x0"])[0], rtol=0, atol=1.3e-5)


def test_ddim_without_noise(prior):
    denoiser, params = prior
    golden = dict(np.load(DATA / "traj_dps_golden.npz"))
    sampler = DDIM(denoiser, num_steps=12, eta=0.0)
    step = jax.jit(sampler.step)
    problem = problem_of(golden["sr_eta1_y"][0])
    state = jax.jit(sampler.init)(hwc(golden["ddim_eta0_initial_noise"])[0], params, problem)
    for segment, row in rows_of(sampler):
        state = step(jnp.zeros((32, 32, 3)), state, params, problem, segment, row)
    np.testing.assert_allclose(state.x_0, hwc(golden["ddim_eta0_final_x0"])[0], rtol=0, atol=1.1e-5)
