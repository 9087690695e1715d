"""MGPS repeated in float64 NumPy, step by step with the same noise.

Adam is not affine in its noise, so there is no law to compare with. With one Gaussian as prior and
a linear operator every gradient is known in closed form.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.operators import from_matrix
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers import MGPS

SIZE, SIGMA_Y, RATE = 3, 0.3, 0.04
MEAN, STD = np.array([0.3, -0.2, 0.5]), 0.8
RNG = np.random.default_rng(1)
A = RNG.standard_normal((2, SIZE))
Y = RNG.standard_normal(2)
ALPHA_BAR = np.asarray(Schedule().alpha_bar, np.float64)
SAMPLER = MGPS(
    num_inner_steps=2,
    num_refined_steps=4,
    num_first=2,
    refine_every=4,
    learning_rate=RATE,
    estimate_from=0.85,
    num_steps=32,
    midpoint=0.4,
)


def slope(t: int) -> float:
    """dD / dx_t of the exact denoiser of N(MEAN, STD^2 I)."""
    return np.sqrt(ALPHA_BAR[t]) * STD**2 / (ALPHA_BAR[t] * STD**2 + 1 - ALPHA_BAR[t])


def denoised(x_t: np.ndarray, t: int) -> np.ndarray:
    return MEAN + slope(t) * (x_t - np.sqrt(ALPHA_BAR[t]) * MEAN)


def between(x_low, low: int, mid: int, x_high, high: int) -> tuple[np.ndarray, float]:
    """Mean and standard deviation at `mid`: the two halves of the way are conjugate Gaussians."""
    down, up = ALPHA_BAR[high] / ALPHA_BAR[mid], ALPHA_BAR[mid] / ALPHA_BAR[low]
    precision = 1 / (1 - up) + down / (1 - down)
    pull = np.sqrt(up) * x_low / (1 - up) + np.sqrt(down) * x_high / (1 - down)
    return pull / precision, np.sqrt(1 / precision)


def likelihood_gradient(x_0: np.ndarray) -> np.ndarray:
    return A.T @ (Y - A @ x_0) / SIGMA_Y**2


def adam_draw(start, std, eps, last, gradient) -> np.ndarray:
    """`gradient(mu, rho, eps)` of the loss in mu and in rho; Adam as Kingma and Ba state it."""
    z = np.concatenate([start, np.full(SIZE, np.log(std))])
    first, second = np.zeros(2 * SIZE), np.zeros(2 * SIZE)
    for k, eps_k in enumerate(eps, 1):
        g = np.concatenate(gradient(z[:SIZE], z[SIZE:], eps_k))
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        z = z - RATE * first / (1 - 0.9**k) / (np.sqrt(second / (1 - 0.999**k)) + 1e-8)
    return z[:SIZE] + np.exp(z[SIZE:]) * last


def midpoint(x_t, guess, guess_time, t, tau, eps, last) -> np.ndarray:
    mean, std = between(denoised(x_t, t), 0, tau, x_t, t)

    def gradient(mu, rho, eps):
        towards = slope(tau) * likelihood_gradient(denoised(mu + np.exp(rho) * eps, tau))
        in_mu = -towards + (mu - mean) / std**2
        return in_mu, -towards * np.exp(rho) * eps + np.exp(2 * rho) / std**2 - 1

    start, start_std = between(guess, guess_time, tau, x_t, t)
    return adam_draw(start, start_std, eps, last, gradient)


def first_time(x_tau, tau, eps, last) -> np.ndarray:
    """A draw of the fit to p(x_1) q(x_tau | x_1) l(y | x_1)."""
    start, std = between(denoised(x_tau, tau), 0, 1, x_tau, tau)
    ratio = ALPHA_BAR[tau] / ALPHA_BAR[1]

    def gradient(mu, rho, eps):
        x_1 = mu + np.exp(rho) * eps
        marginal = ALPHA_BAR[1] * STD**2 + 1 - ALPHA_BAR[1]
        score = -(x_1 - np.sqrt(ALPHA_BAR[1]) * MEAN) / marginal
        towards = likelihood_gradient(x_1) + score
        in_mu = -towards - np.sqrt(ratio) * (x_tau - np.sqrt(ratio) * mu) / (1 - ratio)
        in_rho = -towards * np.exp(rho) * eps + ratio * np.exp(2 * rho) / (1 - ratio) - 1
        return in_mu, in_rho

    return adam_draw(start, std, eps, last, gradient)


def test_every_step_is_that_of_the_formulas():
    prior = GaussianMixture(jnp.asarray(MEAN)[None, None, None], jnp.zeros(1), jnp.asarray(STD))
    problem = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, (1, 1, SIZE)), SIGMA_Y)
    times = np.floor(np.linspace(0, 999, 32)).astype(int)
    x_t = np.random.default_rng(0).standard_normal(SIZE)
    state = SAMPLER.init(jnp.asarray(x_t, jnp.float32)[None, None], prior, problem)
    guess, guess_time = denoised(x_t, 999), 1
    index, kinds = 31, set()
    step = jax.jit(SAMPLER.step)
    for segment in SAMPLER.plan(Schedule()):
        for k in range(len(segment.rows.t)):
            row = jax.tree.map(lambda leaf, k=k: leaf[k], segment.rows)
            noise = SAMPLER.noise(jax.random.key(index), (1, 1, SIZE), segment)
            state = step(noise, state, prior, problem, segment, row)
            n = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64)[..., 0, 0, :], noise)

            t, t_prev = times[index], times[index - 1]
            tau = max(int(0.4 * t_prev), 1)
            count = 4 if index >= 30 or (index % 4 == 0 and index > 20) else 2
            estimates = bool(t >= 850 and tau > 1)
            if not estimates and guess_time == 1:
                guess_time = 0  # The last estimate of x_1 passes for a clean image.
            x_tau = midpoint(x_t, guess, guess_time, t, tau, n.elbo_tau[:count], n.x_tau)
            guess = denoised(x_tau, tau)
            low, low_time = x_tau, tau
            if estimates:
                low, low_time = first_time(x_tau, tau, n.elbo_1[:count], n.x_1), 1
                guess = low
            mean, std = between(low, low_time, t_prev, x_t, t) if low_time < t_prev else (low, 0)
            x_t = mean + std * n.bridge
            np.testing.assert_allclose(state.x_t[0, 0], x_t, atol=2e-3)
            np.testing.assert_allclose(state.x_0[0, 0], guess, atol=2e-3)
            # Rounding is not carried on: the next step is compared from the same state.
            x_t, guess = (np.asarray(a[0, 0], np.float64) for a in (state.x_t, state.x_0))
            kinds.add((estimates, count))
            index -= 1
    assert index == 1
    assert kinds == {(True, 4), (True, 2), (False, 2), (False, 4)}
    sample = SAMPLER.finish(state, prior, problem)
    np.testing.assert_allclose(sample[0, 0], denoised(x_t, times[1]), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_inner_steps", -1),
        ("num_refined_steps", 1),
        ("num_first", -1),
        ("refine_every", 0),
        ("learning_rate", 0.0),
        ("estimate_from", -0.1),
        ("midpoint", 1.5),
        ("num_steps", 2),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        MGPS(**{field: value})


def test_the_cost_counts_every_evaluation():
    """30 steps, of which 31, 30, 28 and 24 are refined; x_1 is estimated from 27 on."""
    cost = SAMPLER.cost(Schedule())
    fits, estimates = 26 * 2 + 4 * 4, 2 * 2 + 3 * 4
    assert cost.vjps == fits
    assert cost.network_calls == 2 + 2 * 30 + fits + estimates
