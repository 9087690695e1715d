"""Samplers take an operator whose measurements look unlike images, and any noise, or say no."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.errors import UserError
from lavps_jax.operators import FourierSampling, Identity, linear_operator, nonlinear_operator
from lavps_jax.problems.noise import Custom
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, residual_chi2, simulate
from lavps_jax.samplers import (
    DAPS,
    DDNM,
    DDRM,
    DING,
    DPS,
    MGDM,
    MGPS,
    DiffPIR,
    FastDIPS,
    GuessAndGuide,
    Inner,
    PiGDM,
    REDDiff,
    sample,
)

SHAPE = (6, 5, 1)
SAMPLERS = {
    "dps": DPS(num_steps=60, step_size=0.6),
    "mgdm": MGDM(inner=Inner(1), inner_low_noise=Inner(5), num_steps=60),
    "pigdm": PiGDM(num_steps=60),
    "ddnm": DDNM(num_steps=60),
    "ddrm": DDRM(),
    "diffpir": DiffPIR(num_steps=60),
    "ding": DING(num_steps=60),
    "fastdips": FastDIPS(num_steps=60),
    "guessandguide": GuessAndGuide(num_steps=60, guide_every=1),
    "reddiff": REDDiff(num_steps=200),
    "daps": DAPS(20, 2, 60, step_size=0.05, step_size_ratio=1.0),
    "mgps": MGPS(120, 10, 20, learning_rate=0.05),
}
SPECTRAL = ("ddnm", "ddrm", "ding")
REFUSED = {
    ("pigdm", "not linear"): "PiGDM takes linear operators only",
    ("ddnm", "not linear"): "DDNM takes linear operators only",
    ("ddnm", "complex"): "DDNM needs known singular values",
    ("ddrm", "not linear"): "DDRM takes linear operators only",
    ("ddrm", "complex"): "DDRM needs known singular values",
    ("ding", "not linear"): "DING takes linear operators only",
    ("ding", "complex"): "DING needs known singular values",
    ("diffpir", "not linear"): "DiffPIR takes linear operators only",
}
GAUSSIAN_ONLY = {
    "dps": "DPS takes the noise as Gaussian",
    "pigdm": "PiGDM takes the noise as Gaussian",
    "ddnm": "DDNM takes the noise as Gaussian",
    "ddrm": "DDRM takes the noise as Gaussian",
    "diffpir": "DiffPIR takes the noise as Gaussian",
    "ding": "DING takes the noise as Gaussian",
    "fastdips": "FastDIPS takes the noise as Gaussian",
}
PRIOR = GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(0.4))
X_0 = jnp.clip(0.4 * jax.random.normal(jax.random.key(5), SHAPE), -0.95, 0.95)


def frequencies(data, x):
    return jnp.fft.fft2(x[..., 0], norm="ortho")[:4, :3].reshape(-1)


def squares(data, x):
    return (x[:, :4] ** 2).sum(-1)


def laplace(scale, y, prediction):
    return -jnp.sum(jnp.abs(y - prediction)) / scale


def sampled(sampler, problem, num_particles=8):
    key = jax.random.fold_in(jax.random.key(2), 0)
    out = sample(key, sampler, PRIOR, problem, num_particles=num_particles)
    assert np.isfinite(out.x_0).all()
    return np.asarray(out.x_0)


CASES = [(name, kind) for name in SAMPLERS for kind in ("complex", "not linear", "photons")]


@pytest.mark.parametrize("name,kind", [*CASES, *((name, "lines") for name in SPECTRAL)])
def test_measurements_are_met(name, kind):
    key = jax.random.key(1)
    match kind:
        case "complex":
            problem = simulate(key, X_0, linear_operator(frequencies, SHAPE), 0.05)
        case "not linear":
            problem = simulate(key, X_0, nonlinear_operator(squares, SHAPE), 0.05)
        case "lines":  # Complex, with known singular values.
            mask = jnp.zeros((6, 5, 1)).at[:, jnp.array([0, 1, 3])].set(1.0)
            problem = simulate(key, X_0, FourierSampling(mask, x_shape=SHAPE), 0.05)
        case _:
            problem = simulate(key, X_0, Identity(x_shape=SHAPE), Poisson(200.0))
    if (name, kind) in REFUSED:
        with pytest.raises(UserError, match=f"operator: got .*; use .*: {REFUSED[name, kind]}"):
            sampled(SAMPLERS[name], problem)
        return
    fit = jax.vmap(lambda x: residual_chi2(problem, x))
    samples = sampled(SAMPLERS[name], problem)
    free = 0.4 * jax.random.normal(jax.random.key(7), samples.shape)
    assert np.median(fit(samples)) < 0.2 * np.median(fit(jnp.clip(free, -0.99, 0.99)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_likelihood_of_ones_own(name):
    problem = Problem(X_0, Identity(x_shape=SHAPE), Custom(laplace, 0.07, data=0.05))
    if name in GAUSSIAN_ONLY:
        with pytest.raises(UserError, match=GAUSSIAN_ONLY[name]):
            sampled(SAMPLERS[name], problem)
        return
    samples = sampled(SAMPLERS[name], problem)
    assert np.abs(samples - np.asarray(X_0)).mean() < 0.15 < np.abs(X_0).mean()
