"""With one Gaussian as prior and a linear operator, many samplers are affine in their noise.

Then the law of their samples is known: the formulas of each paper are repeated here in float64
NumPy on vectors whose columns are the mean and the coefficients of all noises that went in, and
mean and covariance are compared with those of many runs.
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
from lavps_jax.samplers import (
    DAPS,
    DDNM,
    DDRM,
    DING,
    DPS,
    DiffPIR,
    PiGDM,
    REDDiff,
    Sampler,
    State,
    sample,
)

SIZE, NUM_STEPS, NUM_SAMPLES = 3, 8, 40_000
MEAN, STD = np.array([0.3, -0.2, 0.5]), 0.8
RNG = np.random.default_rng(1)
A = RNG.standard_normal((2, SIZE)) * np.array([[1.0], [0.3]])
Y = RNG.standard_normal(2)
SIGMA_Y = 0.4
ALPHA_BAR = np.asarray(Schedule().alpha_bar, np.float64)
TIMES = np.floor(np.linspace(0, 999, NUM_STEPS)).astype(int)[::-1]
PRIOR = GaussianMixture(jnp.asarray(MEAN)[None, None, None], jnp.zeros(1), jnp.asarray(STD))
PROBLEM = Problem(jnp.asarray(Y, jnp.float32), from_matrix(A, (1, 1, SIZE)), SIGMA_Y)


class Noises:
    """Hands out independent standard normal vectors, as columns that no other one uses."""

    count = 1 + SIZE * 120

    def __init__(self):
        self.used = 1

    def __call__(self) -> np.ndarray:
        new = np.zeros((SIZE, self.count))
        new[:, self.used : self.used + SIZE] = np.eye(SIZE)
        self.used += SIZE
        return new


def constant(vector: np.ndarray) -> np.ndarray:
    fixed = np.zeros((len(vector), Noises.count))
    fixed[:, 0] = vector
    return fixed


def slope(t: int) -> float:
    """dD / dx_t of the exact denoiser of N(MEAN, STD^2 I)."""
    a = ALPHA_BAR[t]
    return np.sqrt(a) * STD**2 / (a * STD**2 + 1 - a)


def denoised(x_t: np.ndarray, t: int) -> np.ndarray:
    mean = constant(MEAN)
    return mean + slope(t) * (x_t - np.sqrt(ALPHA_BAR[t]) * mean)


def ddim(x_t, x_0, t, t_prev, eta, noise):
    """q(x_{t_prev} | x_0, x_t) in the form of Song et al. 2021, equation 12."""
    a, a_prev = ALPHA_BAR[t], ALPHA_BAR[t_prev]
    std = eta * np.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    eps = (x_t - np.sqrt(a) * x_0) / np.sqrt(1 - a)
    return np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev - std**2) * eps + std * noise


def pigdm(sigma_y: float) -> np.ndarray:
    noises = Noises()
    x = noises()
    for t, t_prev in zip(TIMES[:-2], TIMES[1:-1], strict=True):
        x_0, r2 = denoised(x, t), 1 - ALPHA_BAR[t]
        covariance = r2 * A @ A.T + sigma_y**2 * np.eye(2)
        g = r2 * slope(t) * A.T @ np.linalg.solve(covariance, constant(Y) - A @ x_0)
        x = ddim(x, x_0, t, t_prev, 0.7, noises()) + np.sqrt(ALPHA_BAR[t]) * g
    return denoised(x, TIMES[-2])


def singular_values() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s of all three directions, V, and y_bar = U^T y / s in the seen ones, as a column each."""
    u, s, vt = np.linalg.svd(A)
    y_bar = np.append(u.T @ Y / s, 0)
    return np.append(s, 0), vt.T, y_bar


def ddnm(sigma_y: float) -> np.ndarray:
    noises, (s, v, _) = Noises(), singular_values()
    x, time, regimes = noises(), TIMES[0], set()
    for k in (0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5):  # Stretches of two steps, each run twice.
        t, t_prev = TIMES[k : k + 2]
        if time < t:
            ratio = ALPHA_BAR[t] / ALPHA_BAR[time]
            x = np.sqrt(ratio) * x + np.sqrt(1 - ratio) * noises()
        time = t_prev
        x_0, eta = denoised(x, t), 0.85
        signal, level = np.sqrt(ALPHA_BAR[t_prev]), np.sqrt(1 - ALPHA_BAR[t_prev])
        eps_hat = (x - np.sqrt(ALPHA_BAR[t]) * x_0) / np.sqrt(1 - ALPHA_BAR[t])
        # The factors of the correction, of fresh noise and of eps_hat, in the directions V.
        factor, fresh, kept = np.ones(SIZE), np.full(SIZE, eta), np.zeros(SIZE)
        kept[s == 0] = np.sqrt(1 - eta**2)
        for i in range(2):
            if level < signal * sigma_y / s[i]:
                factor[i] = s[i] * level * np.sqrt(1 - eta**2) / (signal * sigma_y)
            else:
                fresh[i] = np.sqrt(level**2 - (signal * sigma_y / s[i]) ** 2) / level
            regimes.add(bool(factor[i] < 1))
        x_0 = x_0 + v * factor @ v.T @ np.linalg.pinv(A) @ (constant(Y) - A @ x_0)
        x = signal * x_0 + level * (v * fresh @ v.T @ noises() + v * kept @ v.T @ eps_hat)
    assert len(regimes) == 2
    return denoised(x, TIMES[-2])


def ddrm(sigma_y: float) -> np.ndarray:
    noises, (s, v, y_bar) = Noises(), singular_values()
    sigma = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
    eta, eta_b, regimes = 0.85, 0.9, set()
    # All in the directions V, and for x / sqrt(alpha_bar).
    fresh = noises()
    z = sigma[TIMES[0]] * fresh
    for i in range(2):
        z[i] = np.sqrt(sigma[TIMES[0]] ** 2 - (sigma_y / s[i]) ** 2) * fresh[i]
        z[i, 0] = y_bar[i]
    for t, t_prev in zip(TIMES[:-2], TIMES[1:-1], strict=True):
        x_0, fresh, new = (
            v.T @ denoised(np.sqrt(ALPHA_BAR[t]) * v @ z, t),
            noises(),
            np.zeros_like(z),
        )
        low = sigma[t_prev]
        for i in range(SIZE):
            y = np.zeros(Noises.count)
            y[0] = y_bar[i]
            if s[i] == 0:
                new[i] = x_0[i] + np.sqrt(1 - eta**2) * low * (z[i] - x_0[i]) / sigma[t]
                new[i] += eta * low * fresh[i]
            elif low < sigma_y / s[i]:
                new[i] = x_0[i] + np.sqrt(1 - eta**2) * low * (y - x_0[i]) / (sigma_y / s[i])
                new[i] += eta * low * fresh[i]
            else:
                std = np.sqrt(low**2 - (sigma_y * eta_b / s[i]) ** 2)
                new[i] = (1 - eta_b) * x_0[i] + eta_b * y + std * fresh[i]
            regimes.add((s[i] == 0, bool(low < sigma_y / max(s[i], 1e-9))))
        z = new
    assert len(regimes) == 3
    return denoised(np.sqrt(ALPHA_BAR[TIMES[-2]]) * v @ z, TIMES[-2])


def diffpir(sigma_y: float) -> np.ndarray:
    noises = Noises()
    x = noises()
    for k, t in enumerate(TIMES[:-1]):
        a, a_prev = ALPHA_BAR[t], ALPHA_BAR[TIMES[k + 1]]
        rho = 0.7 * sigma_y**2 * a / (1 - a)
        pull = A.T @ constant(Y) + rho * denoised(x, t)
        x_0 = np.linalg.solve(A.T @ A + rho * np.eye(SIZE), pull)
        if t == TIMES[-2]:
            return x_0
        eps = (x - np.sqrt(a) * x_0) / np.sqrt(1 - a)
        mixed = np.sqrt(1 - 0.3) * eps + np.sqrt(0.3) * noises()
        x = np.sqrt(a_prev) * x_0 + np.sqrt(1 - a_prev) * mixed
    raise AssertionError


def daps(sigma_y: float) -> np.ndarray:
    noises, sigma = Noises(), np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)

    def times(high, low, count):
        levels = np.linspace(high ** (1 / 7), low ** (1 / 7), count) ** 7
        return [int(np.abs(sigma - level)[1:].argmin()) + 1 for level in levels]

    x, levels = noises(), times(50, 0.5, 5)
    for k, t in enumerate(levels):
        ode = [*times(sigma[t], 0.05, 3), 0]
        for high, low in zip(ode[:-1], ode[1:], strict=True):
            x = ddim(x, denoised(x, high), high, low, 0, 0)
        x_0 = x_0_hat = x
        curvature = np.linalg.norm(A, 2) ** 2 / sigma_y**2
        h = 0.2 * (1 + (0.2 - 1) * k / 4) / curvature
        for _ in range(15):
            drift = A.T @ (constant(Y) - A @ x_0) / sigma_y**2 - (x_0 - x_0_hat) / sigma[t] ** 2
            x_0 = x_0 + h * drift + np.sqrt(2 * h) * noises()
        if k == 4:
            return x_0
        a = ALPHA_BAR[levels[k + 1]]
        x = np.sqrt(a) * x_0 + np.sqrt(1 - a) * noises()
    raise AssertionError


def ding(sigma_y: float) -> np.ndarray:
    noises = Noises()
    x = noises()
    for t, t_prev in zip(TIMES[:-2], TIMES[1:-1], strict=True):
        mean = ddim(x, denoised(x, t), t, t_prev, 0.9, 0)
        std, a = ddim(0, 0, t, t_prev, 0.9, 1), np.sqrt(ALPHA_BAR[t_prev])
        z = mean + std * noises()
        n_hat = z - a * denoised(z, t_prev)
        precision = np.eye(SIZE) / std**2 + A.T @ A / (a * sigma_y) ** 2
        pull = mean / std**2 + A.T @ (a * constant(Y) + A @ n_hat) / (a * sigma_y) ** 2
        x = np.linalg.solve(precision, pull)
        x = x + np.linalg.cholesky(np.linalg.inv(precision)) @ noises()
    return denoised(x, TIMES[-2])


CASES = {
    "pigdm": (PiGDM(NUM_STEPS, eta=0.7), pigdm),
    "ddnm": (DDNM(NUM_STEPS, travel_length=2, num_travels=2), ddnm),
    "ddrm": (DDRM(NUM_STEPS, eta_b=0.9), ddrm),
    "diffpir": (DiffPIR(NUM_STEPS, 0.7, 0.3), diffpir),
    "ding": (DING(NUM_STEPS, 0.9), ding),
    "daps": (DAPS(5, 3, 15, 0.2, 0.2, 50.0, 0.5, 0.05), daps),
}


def sampled(sampler: Sampler) -> np.ndarray:
    """Many samples, (NUM_SAMPLES, SIZE)."""
    out = sample(jax.random.key(0), sampler, PRIOR, PROBLEM, num_particles=NUM_SAMPLES)
    return np.asarray(out.x_0[:, 0, 0], np.float64)


def z_scores(samples: np.ndarray, law: np.ndarray) -> np.ndarray:
    """Whitened deviations of mean, variances and cross terms, in standard errors."""
    factor = np.linalg.cholesky(law[:, 1:] @ law[:, 1:].T)
    white = np.linalg.solve(factor, samples.T - law[:, :1])
    second = white @ white.T / NUM_SAMPLES - np.eye(SIZE)
    second /= np.sqrt(1 + np.eye(SIZE))  # Variance of w_i w_j: 1, and 2 on the diagonal.
    return np.sqrt(NUM_SAMPLES) * np.concatenate([white.mean(1), second[np.triu_indices(SIZE)]])


@pytest.mark.parametrize("name", CASES)
def test_the_samples_have_the_law_of_the_formulas(name):
    sampler, law = CASES[name]
    samples = sampled(sampler)
    assert np.abs(z_scores(samples, law(SIGMA_Y))).max() < 4.5
    # The same comparison finds formulas for a sigma_y that is 10 % larger.
    assert np.abs(z_scores(samples, law(1.1 * SIGMA_Y))).max() > 6


@pytest.mark.parametrize("sampler", [DDNM(NUM_STEPS), DDRM(NUM_STEPS)])
def test_without_noise_what_is_measured_is_put_in_place(sampler):
    problem = Problem(PROBLEM.y, PROBLEM.operator, 0.0)
    (segment,) = sampler.plan(Schedule())
    row = jax.tree.map(lambda leaf: leaf[2], segment.rows)
    eps = jnp.ones((1, 1, SIZE))
    # Without fresh noise, which has the whole variance in these directions.
    noise = jax.tree.map(jnp.zeros_like, sampler.noise(jax.random.key(0), eps.shape, segment))
    state = sampler.step(noise, State(eps, eps), PRIOR, problem, segment, row)
    scale = ALPHA_BAR[TIMES[3]] ** 0.5
    np.testing.assert_allclose(A @ np.asarray(state.x_t[0, 0]) / scale, Y, rtol=1e-3, atol=1e-4)


def test_reddiff_takes_the_steps_of_adam_on_its_loss():
    """Adam is not affine: the run is repeated in NumPy with the same noise."""
    sampler = REDDiff(6, 0.3, 0.05)
    (segment,) = sampler.plan(Schedule())
    times = np.floor(np.linspace(0, 999, 6)).astype(int)[:0:-1]
    assert sampler.cost(Schedule()).network_calls == len(times) == 5
    state = sampler.init(jnp.zeros((1, 1, SIZE)), PRIOR, PROBLEM)
    x_0 = np.linalg.solve(A.T @ A + 4 * SIGMA_Y**2 * np.eye(SIZE), A.T @ Y)
    first, second = np.zeros(SIZE), np.zeros(SIZE)
    for k, t in enumerate(times):
        eps = np.random.default_rng(k).standard_normal(SIZE)
        row = jax.tree.map(lambda leaf, k=k: leaf[k], segment.rows)
        noise = jnp.asarray(eps, jnp.float32)[None, None]
        state = sampler.step(noise, state, PRIOR, PROBLEM, segment, row)
        signal, level = np.sqrt(ALPHA_BAR[t]), np.sqrt(1 - ALPHA_BAR[t])
        x_t = signal * x_0 + level * eps
        eps_hat = (x_t - signal * (MEAN + slope(t) * (x_t - signal * MEAN))) / level
        gradient = 2 * A.T @ (A @ x_0 - Y) + 0.3 * level / signal * (eps_hat - eps)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        direction = first / (1 - 0.9 ** (k + 1)) / np.sqrt(second / (1 - 0.99 ** (k + 1)))
        x_0 = x_0 - 0.05 * direction
        np.testing.assert_allclose(state.x_0[0, 0], x_0, atol=1e-4)
    assert np.abs(x_0 - np.linalg.pinv(A) @ Y).max() > 0.05


def test_dps_takes_the_steps_of_its_paper_in_the_unit_of_its_authors():
    """x' - scale grad ||y - A D(x_t)||, with the ancestral step of DDPM for x', in NumPy.

    The norm makes it not affine: the run is repeated with the same noise, in four dimensions.
    """
    rng, scale, count = np.random.default_rng(2), 0.3, 20
    a, y, mean = rng.standard_normal((2, 4)), rng.standard_normal(2), rng.standard_normal(4)
    prior = PRIOR.replace(means=jnp.asarray(mean)[None, None, None])
    problem = Problem(jnp.asarray(y, jnp.float32), from_matrix(a, (1, 1, 4)), SIGMA_Y)
    sampler = DPS(count, scale)
    (segment,) = sampler.plan(Schedule())
    times = np.floor(np.linspace(0, 999, count)).astype(int)[::-1]
    x_t = rng.standard_normal(4)
    state = sampler.init(jnp.asarray(x_t, jnp.float32)[None, None], prior, problem)
    for k, (t, t_prev) in enumerate(zip(times[:-2], times[1:-1], strict=True)):
        eps = rng.standard_normal(4)
        row = jax.tree.map(lambda leaf, k=k: leaf[k], segment.rows)
        noise = jnp.asarray(eps, jnp.float32)[None, None]
        state = sampler.step(noise, state, prior, problem, segment, row)
        bar, bar_prev = ALPHA_BAR[t], ALPHA_BAR[t_prev]
        alpha = bar / bar_prev
        x_0 = mean + slope(t) * (x_t - np.sqrt(bar) * mean)
        r = y - a @ x_0
        gradient = -slope(t) * a.T @ r / np.linalg.norm(r)
        x_t = (
            np.sqrt(alpha) * (1 - bar_prev) / (1 - bar) * x_t
            + np.sqrt(bar_prev) * (1 - alpha) / (1 - bar) * x_0
            + np.sqrt((1 - bar_prev) / (1 - bar) * (1 - alpha)) * eps
            - scale * gradient
        )
        np.testing.assert_allclose(state.x_t[0, 0], x_t, atol=2e-4)
    assert np.abs(scale * gradient).max() > 0.03  # A step of half or twice the size is found.


def test_dps_refuses_a_negative_step():
    with pytest.raises(UserError, match="^step_size: got -0.1; use at least 0"):
        DPS(step_size=-0.1)
