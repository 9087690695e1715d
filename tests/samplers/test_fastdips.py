"""The correction of FAST-DIPS against the projection that it approximates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.operators import from_matrix, nonlinear_operator
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers import FastDIPS, State
from lavps_jax.samplers.fastdips import into_ball

RNG = np.random.default_rng(2)
A = RNG.standard_normal((2, 4))
Y, X_0_HAT = RNG.standard_normal(2), RNG.standard_normal(4)
SHAPE = (1, 2, 2)


def corrected(problem, radius: float, num_admm_steps: int) -> np.ndarray:
    x_0_hat = jnp.asarray(X_0_HAT, jnp.float32).reshape(SHAPE)
    run = jax.jit(lambda x: into_ball(x, problem, jnp.float32(radius), 1.0, num_admm_steps, 3))
    return np.ravel(run(x_0_hat))


def test_many_steps_end_at_the_nearest_image_of_the_ball():
    def nearest(weight: float) -> np.ndarray:
        return X_0_HAT + np.linalg.solve(A.T @ A + weight * np.eye(4), A.T @ (Y - A @ X_0_HAT))

    radius = 0.3
    assert np.linalg.norm(Y - A @ X_0_HAT) > 2 * radius
    weight = brentq(lambda w: np.linalg.norm(Y - A @ nearest(w)) - radius, 1e-6, 1e6)
    problem = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, SHAPE), 0.1)
    np.testing.assert_allclose(corrected(problem, radius, 300), nearest(weight), atol=1e-3)
    # An image inside is left as it is.
    np.testing.assert_array_equal(corrected(problem, 100.0, 5), np.float32(X_0_HAT))


@pytest.mark.parametrize("num_admm_steps", [2, 3])
def test_the_first_steps(num_admm_steps):
    """Steepest descent with an exact line search, repeated in NumPy."""
    x, u, radius = X_0_HAT, np.zeros(2), 0.3

    def ball(v: np.ndarray) -> np.ndarray:
        return Y + (v - Y) * min(1, radius / np.linalg.norm(v - Y))

    v = A @ x
    for _ in range(num_admm_steps):
        for _ in range(3):
            g = x - X_0_HAT + A.T @ (A @ x - v + u)
            x = x - g @ g / max(g @ g + (A @ g) @ (A @ g), 1e-300) * g
        v = ball(A @ x + u)
        u = u + A @ x - v
    problem = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, SHAPE), 0.1)
    np.testing.assert_allclose(corrected(problem, radius, num_admm_steps), x, atol=1e-5)
    assert np.abs(x - X_0_HAT).max() > 0.1
    np.testing.assert_array_equal(corrected(problem, radius, 1), np.float32(X_0_HAT))


def test_a_step_and_the_end():
    """With exact denoising of N(0, I), repeated in NumPy."""
    prior = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(1.0))
    sampler = FastDIPS(num_steps=20, penalty=30.0, radius=0.2)
    k, schedule = 7, Schedule()
    (segment,) = sampler.plan(schedule)
    row = jax.tree.map(lambda leaf: leaf[k], segment.rows)
    times = time_grid(20)[::-1]
    assert int(row.t) == times[k]
    now, then = schedule.alpha_bar[times[k]], schedule.alpha_bar[times[k + 1]]
    x_t, noise = RNG.standard_normal((2, 4))
    x_0_hat = np.sqrt(now) * x_t
    x, u, v = x_0_hat, np.zeros(2), A @ x_0_hat
    for _ in range(3):
        for _ in range(2):
            g = x - x_0_hat + 30 * (1 - now) / now * A.T @ (A @ x - v + u)
            curved = g @ g + 30 * (1 - now) / now * (A @ g) @ (A @ g)
            x = x - g @ g / max(curved, 1e-300) * g
        gap = A @ x + u - Y
        v = Y + gap * min(1, 0.2 / np.linalg.norm(gap))
        u = u + A @ x - v
    problem = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, SHAPE), 0.1)
    state = State(jnp.asarray(x_t, jnp.float32).reshape(SHAPE), jnp.zeros(SHAPE))
    draw = jnp.asarray(noise, jnp.float32).reshape(SHAPE)
    new = jax.jit(sampler.step)(draw, state, prior, problem, segment, row)
    np.testing.assert_allclose(np.ravel(new.x_0), x, atol=2e-5)
    wanted = np.sqrt(then) * x + np.sqrt(1 - then) * noise
    np.testing.assert_allclose(np.ravel(new.x_t), wanted, atol=2e-5)
    last = schedule.alpha_bar[times[-2]]
    end = np.ravel(sampler.finish(state, prior, problem))
    np.testing.assert_allclose(end, np.sqrt(last) * x_t, atol=1e-5)
    assert np.abs(x - x_0_hat).max() > 0.1


def squash(matrix, x):
    return jnp.tanh(matrix @ x.reshape(-1)) * (1 + 2j)


def test_an_operator_that_is_not_linear_and_complex():
    operator = nonlinear_operator(squash, SHAPE, jnp.asarray(A, jnp.float32))
    problem = Problem(jnp.array([0.3 + 0.6j, -0.5 - 1.0j]), operator, 0.1)
    x = corrected(problem, 0.1, 200)
    distance = np.linalg.norm(np.asarray(problem.y) - np.tanh(A @ x) * (1 + 2j))
    assert distance < 0.11 and np.linalg.norm(x - X_0_HAT) > 0.1


def kink(slope, x):
    return jnp.where(x < 0, x, slope * x).reshape(-1)


def test_a_step_that_leads_uphill_is_halved():
    """At -1 the operator looks flat; the step as long as that suggests ends where it is steep."""
    operator = nonlinear_operator(kink, (1, 1, 1), jnp.float32(20.0))
    problem = Problem(jnp.array([0.5]), operator, 0.1)

    x_0_hat = jnp.full((1, 1, 1), -1.0)
    x = float(into_ball(x_0_hat, problem, jnp.float32(0.0), jnp.float32(1e3), 2, 1)[0, 0, 0])
    # The target is 2 y - A(x_0_hat) = 2; the minimum along the tangent is close to it, at x = 2.
    full = 3 * 1e3 / (1 + 1e3)
    assert x == pytest.approx(-1 + full / 4, abs=1e-4)
