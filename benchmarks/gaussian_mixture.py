"""Samplers against a posterior that is known exactly: a Gaussian mixture, measured linearly.

The setting is that of Cardoso et al., "Monte Carlo Guided Diffusion for Bayesian Linear Inverse
Problems", ICLR 2024, arXiv:2308.07983: 25 components N((8 i, 8 j, 8 i, 8 j, ...), I) for i, j in
-2 .. 2 with random weights, y = A x + sigma_y noise with A = U diag(s) V^T, s uniform in [0, 1],
sigma_y = max(s) times a uniform number, here at least 0.01. The score is exact, so that what
remains is the error of the sampler. Each entry is the sliced Wasserstein distance between its
samples and exact samples of the posterior.

Two rows bound what can be reached: "floor" compares two sets of exact samples, and "exact
posterior denoiser" runs DDIM with E[x_0 | x_t, y] itself. The chain starts at N(0, I) although the
noised mixture is wider at the last time (by up to 0.9 standard deviations for d = 80), so that even
the latter does not quite reach the former.

Command: python benchmarks/gaussian_mixture.py
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from record import record
from rich.console import Console
from rich.table import Table
from scipy import stats

from lavps_jax.diffusion import GaussianMixture, GaussianMixtureDenoiser
from lavps_jax.likelihoods import make_problem
from lavps_jax.metrics import sliced_wasserstein
from lavps_jax.operators import from_matrix
from lavps_jax.samplers import (
    DAPS,
    DDIM,
    DDNM,
    DDRM,
    DING,
    DPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    Inner,
    PiGDM,
    REDDiff,
    Sampler,
    make_sample_fn,
)
from lavps_jax.types import Problem

DENOISER = GaussianMixtureDenoiser()


@dataclass(frozen=True)
class Config:
    """Which problems to measure."""

    dims: tuple[tuple[int, int], ...] = ((8, 1), (8, 2), (8, 4), (80, 1), (80, 2), (80, 4))
    """Pairs (d, d_y)."""
    num_problems: int = 10
    num_samples: int = 1000
    num_slices: int = 100
    seed: int = 0
    out: str = "docs/results/gaussian_mixture.json"


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
    return make_problem(jnp.asarray(case.y, jnp.float32), operator, case.sigma_y)


def mixture(means: np.ndarray, log_weights: np.ndarray, std: np.ndarray) -> GaussianMixture:
    """Components over images (1, 1, d), in float32; std is a number or (1, 1, d)."""
    image_means = jnp.asarray(means, jnp.float32)[:, None, None]
    return GaussianMixture(
        image_means, jnp.asarray(log_weights, jnp.float32), jnp.asarray(std, jnp.float32)
    )


def mgdm(num_inner_steps: int, learning_rate: float) -> MGDM:
    """MGDM with the same inner problem at every step."""
    inner = Inner(num_inner_steps, learning_rate)
    return MGDM(DENOISER, inner, inner)


SAMPLERS: Mapping[str, Sampler] = {
    f"MGDM K={steps}, lr {rate:g}": mgdm(steps, rate)
    for steps, rate in ((1, 0.1), (3, 0.1), (5, 0.03), (5, 0.1))
} | {
    "DPS, gamma 0.1": DPS(DENOISER, gamma=0.1),
    "DPS, gamma 1": DPS(DENOISER, gamma=1.0),
    "PiGDM": PiGDM(DENOISER),
    "DDNM": DDNM(DENOISER),
    "DDRM": DDRM(DENOISER),
    "DDRM, 101 steps": DDRM(DENOISER, num_steps=101),
    "DiffPIR": DiffPIR(DENOISER),
    "RED-diff": REDDiff(DENOISER),
    "DAPS": DAPS(DENOISER),
    "MGPS": MGPS(DENOISER),
    "DING": DING(DENOISER),
    "FAST-DIPS": FastDIPS(DENOISER),
}
EXACT: Mapping[str, Sampler] = {
    f"exact posterior denoiser, {steps} steps": DDIM(DENOISER, num_steps=steps)
    for steps in (20, 100)
}


def distances(config: Config, d: int, d_y: int) -> dict[str, list[float]]:
    """Sliced Wasserstein distance of every row, one number per problem."""
    methods = {**EXACT, "prior samples": DDIM(DENOISER), **SAMPLERS}
    sample_fns = {
        name: make_sample_fn(sampler, num_particles=config.num_samples)
        for name, sampler in methods.items()
    }
    rows: dict[str, list[float]] = {"floor": [], **{name: [] for name in methods}}
    for number in range(config.num_problems):
        rng = np.random.default_rng([config.seed, d, d_y, number])
        case = draw_case(rng, d, d_y)
        target = posterior(case)
        truth = exact_samples(rng, target, config.num_samples)
        slices = int(rng.integers(2**32))

        def distance(samples, truth=truth, slices=slices) -> float:
            return sliced_wasserstein(slices, samples, truth, config.num_slices, order=1)

        rows["floor"].append(distance(exact_samples(rng, target, config.num_samples)))
        prior = mixture(case.means, case.log_weights, np.ones(()))
        exact = mixture(target.means, target.log_weights, target.std[None, None])
        problems = jax.tree.map(lambda leaf: leaf[None], as_problem(case))
        for name, sampler in methods.items():
            theta = exact if name in EXACT else prior
            key = jax.random.fold_in(jax.random.key(config.seed), zlib.crc32(name.encode()))
            out = sample_fns[name](
                key, jnp.array([number]), {"theta": theta}, problems, sampler.plan()
            )
            samples = np.asarray(out.x_0[0, :, 0, 0], np.float64)
            rows[name].append(distance(samples @ target.basis.T if name in EXACT else samples))
    return rows


def main(config: Config) -> None:
    console = Console()
    results = {}
    table = Table("sliced Wasserstein")
    columns = []
    for d, d_y in config.dims:
        rows = distances(config, d, d_y)
        results[f"{d},{d_y}"] = rows
        table.add_column(f"d={d}, d_y={d_y}", justify="right")
        columns.append([summary(values) for values in rows.values()])
        console.print(f"d={d}, d_y={d_y}:", dict(zip(rows, columns[-1], strict=True)))
        record(config.out, {"settings": vars(config), "distances": results})
    for name, *cells in zip(rows, *columns, strict=True):
        table.add_row(name, *cells)
    console.print(table)


def summary(values: list[float]) -> str:
    """Mean and half the width of its 95 % t interval."""
    error = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return f"{np.mean(values):.2f} ± {error:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Config))
