"""Posteriors that are known exactly: a Gaussian mixture, measured linearly, and scores of samples.

The setting is that of Cardoso et al., "Monte Carlo Guided Diffusion for Bayesian Linear Inverse
Problems", ICLR 2024, arXiv:2308.07983: 25 components N((8 i, 8 j, 8 i, 8 j, ...), I) for i, j in
-2 .. 2 with random weights, y = A x + sigma_y noise with A = U diag(s) V^T, s uniform in [0, 1],
sigma_y = max(s) times a uniform number, here at least 0.01.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.metrics.images import interval_coverage, sliced_wasserstein
from lavps_jax.operators import from_matrix
from lavps_jax.problems.problem import Problem


class UnitMixture(GaussianMixture):
    """A mixture whose components have variance one, by products of matrices: many times faster
    where there are many samples and dimensions.

    The noised components have variance one, too: with a = sqrt(alpha_bar) the posterior of the
    component is proportional to w_k exp(a m_k x_t - a^2 |m_k|^2 / 2), and with m its mean,
    E[x_0 | x_t] = m + a (x_t - a m).
    """

    def __call__(self, x_t, t, label=None):
        """E[x_0 | x_t], of the shape of x_t."""
        a = jnp.asarray(self.schedule.alpha_bar**0.5, x_t.dtype)[t]
        means = self.means.reshape(len(self.means), -1)
        product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        fit = a * product(means, x_t.reshape(-1)) - a**2 * jnp.sum(means**2, axis=1) / 2
        mean = product(jax.nn.softmax(self.log_weights + fit), means).reshape(x_t.shape)
        return mean + a * (x_t - a * mean)


class Case(NamedTuple):
    """One random problem in float64.

    Attributes:
      means, log_weights: the prior's components, (25, d) and (25,).
      a, y, sigma_y: the measurement, (d_y, d), (d_y,) and a number.
    """

    means: np.ndarray
    log_weights: np.ndarray
    a: np.ndarray
    y: np.ndarray
    sigma_y: float


class Posterior(NamedTuple):
    """p(x_0 | y): a mixture whose components share one covariance, diagonal in `basis`.

    Attributes:
      basis: orthonormal columns, (d, d).
      means: in that basis, (25, d).
      log_weights: (25,), normalised.
      std: in that basis, (d,).
    """

    basis: np.ndarray
    means: np.ndarray
    log_weights: np.ndarray
    std: np.ndarray


def draw_case(rng: np.random.Generator, d: int, d_y: int) -> Case:
    """A random prior, matrix and measurement of a draw of the prior."""
    grid = [(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)]
    means = np.array([np.tile(pair, d // 2) for pair in grid])
    weights = rng.standard_normal(25) ** 2
    weights /= weights.sum()
    u, _, vt = np.linalg.svd(rng.standard_normal((d_y, d)), full_matrices=False)
    singular = np.sort(rng.uniform(size=d_y))[::-1]
    a = u * singular @ vt
    sigma_y = max(rng.uniform() * singular.max(), 0.01)
    x_0 = means[rng.choice(25, p=weights)] + rng.standard_normal(d)
    y = a @ x_0 + sigma_y * rng.standard_normal(d_y)
    return Case(means, np.log(weights), a, y, sigma_y)


def posterior(case: Case) -> Posterior:
    """Conditions every component on y (Gaussian conjugacy) and weighs it by its evidence."""
    d_y, d = case.a.shape
    _, singular, vt = np.linalg.svd(case.a)
    residual = case.y - case.means @ case.a.T
    evidence = case.a @ case.a.T + case.sigma_y**2 * np.eye(d_y)
    gain = np.linalg.solve(evidence, residual.T).T
    log_weights = case.log_weights - np.sum(residual * gain, axis=1) / 2
    variance = np.ones(d)
    variance[:d_y] = 1 / (1 + singular**2 / case.sigma_y**2)
    return Posterior(
        basis=vt.T,
        means=(case.means + gain @ case.a) @ vt.T,
        log_weights=log_weights - np.logaddexp.reduce(log_weights),
        std=np.sqrt(variance),
    )


def exact_samples(rng: np.random.Generator, target: Posterior, count: int) -> np.ndarray:
    """Independent samples of p(x_0 | y), (count, d)."""
    component = rng.choice(len(target.means), size=count, p=np.exp(target.log_weights))
    noise = rng.standard_normal((count, len(target.std)))
    return (target.means[component] + target.std * noise) @ target.basis.T


def as_problem(case: Case) -> Problem:
    """The measurement as samplers take it, in float32."""
    operator = from_matrix(case.a, (1, 1, case.a.shape[1]))
    return Problem(jnp.asarray(case.y, jnp.float32), operator, case.sigma_y)


def prior_mixture(case: Case) -> UnitMixture:
    """The prior of a problem over images (1, 1, d), in float32."""
    return UnitMixture(*_components(case.means, case.log_weights, np.ones(())))


def posterior_mixture(target: Posterior) -> GaussianMixture:
    """The posterior over images (1, 1, d) in its own basis, in float32."""
    std = target.std[None, None]
    return GaussianMixture(*_components(target.means, target.log_weights, std))


def _components(means: np.ndarray, *others: np.ndarray) -> list[jax.Array]:
    """Means as images (1, 1, d), and the others as they are, in float32."""
    return [jnp.asarray(one, jnp.float32) for one in (means[:, None, None], *others)]


def scores(
    samples: np.ndarray, target: Posterior, truth: np.ndarray, num_slices: int, seed: int
) -> dict[str, float]:
    """How far samples (n, d) are from the posterior.

    Args:
      truth: exact samples, (m, d).
      num_slices, seed: of the sliced Wasserstein distance.

    Returns:
      "distance": sliced Wasserstein of order 1 between samples and truth.
      "coverage_50", "coverage_90": share of the coordinates of exact samples, in the posterior's
        basis, that lie in the central interval of the samples; .5 and .9 for exact ones.
      "mode_error": total variation distance, in [0, 1], between the weights of the components and
        the shares of samples nearest to each.
    """
    in_basis, true_in_basis = samples @ target.basis, truth @ target.basis
    nearest = [np.argmin(np.sum(((x - target.means) / target.std) ** 2, 1)) for x in in_basis]
    found = np.bincount(nearest, minlength=len(target.means)) / len(samples)

    def coverage(level: float) -> float:
        covered = jax.vmap(lambda one: interval_coverage(jnp.asarray(in_basis), one, level))
        return float(covered(jnp.asarray(true_in_basis)).mean())

    return {
        "distance": sliced_wasserstein(seed, samples, truth, num_slices, order=1),
        "coverage_50": coverage(0.5),
        "coverage_90": coverage(0.9),
        "mode_error": float(np.abs(found - np.exp(target.log_weights)).sum() / 2),
    }
