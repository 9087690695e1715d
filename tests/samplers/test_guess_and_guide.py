"""Guess & Guide against its formulas in NumPy, with one Gaussian as prior."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.operators import from_matrix
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers import GuessAndGuide
from lavps_jax.samplers.guess_and_guide import optimise

SIZE, SIGMA_Y = 3, 0.4
MEAN, STD = np.array([0.3, -0.2, 0.5]), 0.8
RNG = np.random.default_rng(4)
A, Y = RNG.standard_normal((2, SIZE)), RNG.standard_normal(2)
ALPHA_BAR = np.asarray(Schedule().alpha_bar, np.float64)
PROBLEM = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, (1, 1, SIZE)), SIGMA_Y)
PRIOR = GaussianMixture(jnp.asarray(MEAN)[None, None, None], jnp.zeros(1), jnp.asarray(STD))


def as_image(vector: np.ndarray) -> jax.Array:
    return jnp.asarray(vector, jnp.float32)[None, None]


def denoised(x_t: np.ndarray, t: int) -> np.ndarray:
    a = ALPHA_BAR[t]
    gain = np.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)
    return MEAN + gain * (x_t - np.sqrt(a) * MEAN)


def optimised(x_0_hat: np.ndarray, t: int, count: int, rate: float) -> np.ndarray:
    r = np.sqrt(1 - ALPHA_BAR[t])
    x, first, second = x_0_hat, np.zeros(SIZE), np.zeros(SIZE)
    for k in range(1, count + 1):
        gradient = (x - x_0_hat) / r**2 + A.T @ (A @ x - Y) / SIGMA_Y**2
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        x = x - rate * r * first / (1 - 0.9**k) / np.sqrt(second / (1 - 0.999**k))
    return x


def test_many_small_steps_end_at_the_minimum():
    x_0_hat, spread = RNG.standard_normal(SIZE), 0.7
    precision = np.eye(SIZE) / spread**2 + A.T @ A / SIGMA_Y**2
    expected = np.linalg.solve(precision, x_0_hat / spread**2 + A.T @ Y / SIGMA_Y**2)
    found = optimise(as_image(x_0_hat), PROBLEM, jnp.float32(spread), 3000, 0.01)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(expected - x_0_hat).max() > 0.1


def test_a_run_is_guesses_at_one_time_and_then_guided_steps():
    sampler = GuessAndGuide(
        num_steps=10,
        start=0.55,
        num_guesses=3,
        guide_every=2,
        num_inner_steps=4,
        learning_rate=0.2,
        eta=0.7,
    )
    times = np.floor(np.linspace(0, 999, 10)).astype(int)[::-1]
    times = times[times <= 555]
    assert times[0] == 555
    (segment,) = sampler.plan(Schedule())
    noises = np.random.default_rng(7).standard_normal((9, SIZE))
    state = sampler.init(as_image(noises[-1]), PRIOR, PROBLEM)
    x, step = noises[-1], 0

    def take(x_next: np.ndarray, x_0: np.ndarray) -> np.ndarray:
        nonlocal state, step
        row = jax.tree.map(lambda leaf: leaf[step], segment.rows)
        state = sampler.step(as_image(noises[step]), state, PRIOR, PROBLEM, segment, row)
        np.testing.assert_allclose(state.x_0[0, 0], x_0, atol=1e-4)
        np.testing.assert_allclose(state.x_t[0, 0], x_next, atol=1e-4)
        step += 1
        return x_next

    a = ALPHA_BAR[555]
    for t in (999, 555, 555):
        x_0 = optimised(denoised(x, t), t, 4, 0.2)
        x = take(np.sqrt(a) * x_0 + np.sqrt(1 - a) * noises[step], x_0)
    for k, (t, t_prev) in enumerate(zip(times[:-2], times[1:-1], strict=True)):
        x_0 = denoised(x, t)
        if k % 2 == 0:
            moved = optimised(x_0, t, 4, 0.2)
            assert np.abs(moved - x_0).max() > 0.01
            x_0 = moved
        a, a_prev = ALPHA_BAR[t], ALPHA_BAR[t_prev]
        std = 0.7 * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        eps = (x - np.sqrt(a) * x_0) / np.sqrt(1 - a)
        mean = np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev - std**2) * eps
        x = take(mean + std * noises[step], x_0)
    assert step == len(segment.rows.t)
    last = sampler.finish(state, PRIOR, PROBLEM)[0, 0]
    np.testing.assert_allclose(last, denoised(x, times[-2]), atol=1e-4)
    assert sampler.cost(Schedule()) == (step + 1, 0, 0)
