"""With a Gaussian prior and exact block fits MGDM is linear: its law is known in closed form.

Mean and covariance of the samples are propagated step by step in float64 NumPy from the formulas
of the method, and compared with many runs of the sampler.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.operators import linear_operator
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers import MGDM, Inner, sample
from lavps_jax.samplers.starts import Start

SIZE, SIGMA_Y, NUM_STEPS, ETA = 3, 0.4, 8, 0.7
RNG = np.random.default_rng(1)
A = RNG.standard_normal((2, SIZE))
Y = RNG.standard_normal(2)
ALPHA_BAR = np.asarray(Schedule().alpha_bar, np.float64)
NUM_SAMPLES = 40_000


def project(matrix, x):
    return matrix @ x[0, 0]


class Exact(Start):
    """The optimum of the negative ELBO of D(x, t) = sqrt(alpha_bar[t]) x, plus a mistake in rho."""

    mistake: float = 0.0

    def __call__(self, problem, prepared, block, eps, loss_fn):
        slope = jnp.sqrt(jnp.asarray(ALPHA_BAR, jnp.float32)[block.tau])
        a = slope * problem.operator.data
        precision = jnp.eye(SIZE) / block.prior_std**2 + a.T @ a / problem.sigma_y**2
        pull = block.prior_mean[0, 0] / block.prior_std**2 + a.T @ problem.y / problem.sigma_y**2
        mu = jnp.linalg.solve(precision, pull)
        rho = -0.5 * jnp.log(jnp.diagonal(precision)) + self.mistake
        return mu[None, None], rho[None, None]


class ExactMGDM(MGDM):
    """MGDM whose fits begin, and end, at the optimum."""

    mistake: float = 0.0

    def start(self, low_noise):
        return Exact(self.mistake)


def bridge(s, t, u, eta):
    """(c_l, c_s, std) of q(x_t | x_s, x_u), s < t < u: method section 3."""

    def a(u, v):
        return ALPHA_BAR[v] / ALPHA_BAR[u]

    std = eta * np.sqrt((1 - a(t, u)) * (1 - a(s, t)) / (1 - a(s, u)))
    c_l = np.sqrt((1 - a(s, t) - std**2) / (1 - a(s, u)))
    return c_l, np.sqrt(a(s, t)) - c_l * np.sqrt(a(s, u)), std


def predicted_law(num_gibbs, num_ddim_steps, tau_rule):
    """Mean and covariance of the sample; the state is (x_{t_next}, x_t, x_0)."""
    eye, zero = np.eye(SIZE), np.zeros((SIZE, SIZE))
    times = np.floor(np.linspace(0, 999, NUM_STEPS)).astype(int)
    first = np.vstack([eye, zero, np.sqrt(ALPHA_BAR[999]) * eye])
    mean, covariance = np.zeros(3 * SIZE), first @ first.T

    def advance(rows, offset, noise):
        nonlocal mean, covariance
        matrix, noise = np.block(rows), np.block(noise)
        mean = matrix @ mean + offset
        covariance = matrix @ covariance @ matrix.T + noise @ noise.T

    for k in range(NUM_STEPS - 3, 0, -1):
        t_prev, t, t_next = times[k : k + 3]
        tau = {"previous": t_prev, "midpoint": t_prev // 2}[tau_rule]
        c_l, c_s, std = bridge(0, t, t_next, ETA)
        advance(
            [[eye, zero, zero], [c_l * eye, zero, c_s * eye], [zero, zero, eye]],
            0.0,
            [[zero], [std * eye], [zero]],
        )
        slope = np.sqrt(ALPHA_BAR[tau])
        p_l, p_s, p_std = bridge(0, tau, t, 1.0)
        r_l, r_s, r_std = bridge(tau, t, t_next, 1.0)
        precision = eye / p_std**2 + slope**2 * A.T @ A / SIGMA_Y**2
        gain = np.linalg.inv(precision) / p_std**2
        offset = np.linalg.solve(precision, slope * A.T @ Y / SIGMA_Y**2)
        width = np.diag(1 / np.sqrt(np.diagonal(precision)))
        # x_0 = scale x_tau + spread noise: DDIM down to 0, where a single step is D(x_tau, tau).
        ddim_times = np.linspace(0, tau, max(num_ddim_steps, 2)).astype(int)[::-1]
        scale, variance = 1.0, 0.0
        for high, low in zip(ddim_times[:-1], ddim_times[1:], strict=True):
            d_l, d_s, d_std = bridge(0, low, high, ETA)
            factor = d_l + d_s * np.sqrt(ALPHA_BAR[high])
            scale, variance = factor * scale, factor**2 * variance + d_std**2
        spread = np.sqrt(variance)
        for _ in range(num_gibbs):
            # x_tau = gain (p_l x_t + p_s x_0) + offset + width noise.
            advance(
                [
                    [eye, zero, zero],
                    [r_l * eye, r_s * p_l * gain, r_s * p_s * gain],
                    [zero, scale * p_l * gain, scale * p_s * gain],
                ],
                np.concatenate([0 * offset, r_s * offset, scale * offset]),
                [
                    [zero, zero, zero],
                    [r_s * width, r_std * eye, zero],
                    [scale * width, zero, spread * eye],
                ],
            )
        # The next step starts at x_t.
        advance([[zero, eye, zero], [zero, zero, zero], [zero, zero, eye]], 0.0, [[zero]] * 3)
    return mean[2 * SIZE :], covariance[2 * SIZE :, 2 * SIZE :]


def z_scores(mistake=0.0, num_gibbs=1, num_ddim_steps=1, tau_rule="previous"):
    """Whitened deviations of mean, variances and cross terms, in standard errors."""
    sampler = ExactMGDM(
        inner=Inner(0),
        inner_low_noise=Inner(0),
        num_steps=NUM_STEPS,
        eta=ETA,
        num_gibbs=num_gibbs,
        num_ddim_steps=num_ddim_steps,
        tau_rule=tau_rule,
        mistake=mistake,
    )
    prior = GaussianMixture(jnp.zeros((1, 1, 1, SIZE)), jnp.zeros(1), jnp.ones(()))
    operator = linear_operator(project, (1, 1, SIZE), jnp.asarray(A, jnp.float32))
    problem = Problem(jnp.asarray(Y, jnp.float32), operator, SIGMA_Y)
    out = sample(jax.random.key(0), sampler, prior, problem, num_particles=NUM_SAMPLES)
    samples = np.asarray(out.x_0[:, 0, 0], np.float64)
    mean, covariance = predicted_law(num_gibbs, num_ddim_steps, tau_rule)
    white = np.linalg.solve(np.linalg.cholesky(covariance), (samples - mean).T)
    second = white @ white.T / NUM_SAMPLES - np.eye(SIZE)
    second /= np.sqrt(1 + np.eye(SIZE))  # Variance of w_i w_j: 1, and 2 on the diagonal.
    return np.sqrt(NUM_SAMPLES) * np.concatenate([white.mean(1), second[np.triu_indices(SIZE)]])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_gibbs": 2, "num_ddim_steps": 3, "tau_rule": "midpoint"},
    ],
)
def test_the_samples_have_the_predicted_law(settings):
    assert np.abs(z_scores(**settings)).max() < 4.5


def test_a_small_mistake_is_found():
    """Standard deviations of the block posteriors that are 5 % too large."""
    assert np.abs(z_scores(mistake=0.05)).max() > 6
