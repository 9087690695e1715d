"""Samplers take an operator whose measurements look unlike images, and any noise, or say no."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.diffusion.denoisers import GaussianMixture, GaussianMixtureDenoiser
from lavps_jax.errors import UserError
from lavps_jax.operators import FourierSampling, Identity, linear_operator, nonlinear_operator
from lavps_jax.problems.likelihoods import make_problem, misfit, simulate, simulate_photons
from lavps_jax.problems.noise import from_log_likelihood
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
    make_sample_fn,
)

SHAPE = (6, 5, 1)
DENOISER = GaussianMixtureDenoiser()
SAMPLERS = {
    "dps": DPS(DENOISER, num_steps=60, step_size=0.6),
    "mgdm": MGDM(DENOISER, Inner(1), Inner(5), num_steps=60),
    "pigdm": PiGDM(DENOISER, num_steps=60),
    "ddnm": DDNM(DENOISER, num_steps=60),
    "ddrm": DDRM(DENOISER),
    "diffpir": DiffPIR(DENOISER, num_steps=60),
    "ding": DING(DENOISER, num_steps=60),
    "fastdips": FastDIPS(DENOISER, num_steps=60),
    "guessandguide": GuessAndGuide(DENOISER, num_steps=60, guide_every=1),
    "reddiff": REDDiff(DENOISER, num_steps=200),
    "daps": DAPS(DENOISER, 20, 2, 60, step_size=0.05, step_size_ratio=1.0),
    "mgps": MGPS(DENOISER, 10, 20, learning_rate=0.05, num_steps=120),
}
SPECTRAL = ("ddnm", "ddrm", "ding")
REFUSED = {
    ("pigdm", "not linear"): "PiGDM takes linear operators only",
    ("ddnm", "not linear"): "DDNM takes linear operators only",
    ("ddnm", "complex"): "this sampler needs an operator with singular values",
    ("ddrm", "not linear"): "DDRM takes linear operators only",
    ("ddrm", "complex"): "this sampler needs an operator with singular values",
    ("ding", "not linear"): "DING takes linear operators only",
    ("ding", "complex"): "this sampler needs an operator with singular values",
    ("diffpir", "not linear"): "DiffPIR takes linear operators only",
}
GAUSSIAN_ONLY = {
    "dps": "DPS sees residuals only",
    "pigdm": "PiGDM takes the noise as Gaussian",
    "ddnm": "DDNM takes the noise as Gaussian",
    "ddrm": "DDRM takes the noise as Gaussian",
    "diffpir": "DiffPIR takes the noise as Gaussian",
    "ding": "DING takes the noise as Gaussian",
    "fastdips": "FAST-DIPS takes the noise as Gaussian",
}
PARAMS = {"theta": GaussianMixture(jnp.zeros((1, *SHAPE)), jnp.zeros(1), jnp.float32(0.4))}
X_0 = jnp.clip(0.4 * jax.random.normal(jax.random.key(5), SHAPE), -0.95, 0.95)


def frequencies(data, x):
    return jnp.fft.fft2(x[..., 0], norm="ortho")[:4, :3].reshape(-1)


def squares(data, x):
    return (x[:, :4] ** 2).sum(-1)


def laplace(scale, y, prediction):
    return -jnp.sum(jnp.abs(y - prediction)) / scale


def sample(sampler, problem, num_particles=8):
    problems = jax.tree.map(lambda leaf: leaf[None], problem)
    run = make_sample_fn(sampler, num_particles=num_particles)
    out = run(jax.random.key(2), jnp.arange(1), PARAMS, problems, sampler.plan())
    assert np.isfinite(out.x_0).all()
    return np.asarray(out.x_0[0])


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
            problem = simulate_photons(key, X_0, Identity(x_shape=SHAPE), 200.0)
    if (name, kind) in REFUSED:
        with pytest.raises(UserError, match=f"operator: got .*; use .*: {REFUSED[name, kind]}"):
            sample(SAMPLERS[name], problem)
        return
    fit = jax.vmap(lambda x: misfit(problem, x))
    samples = sample(SAMPLERS[name], problem)
    free = 0.4 * jax.random.normal(jax.random.key(7), samples.shape)
    assert np.median(fit(samples)) < 0.2 * np.median(fit(jnp.clip(free, -0.99, 0.99)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_likelihood_of_ones_own(name):
    noise = from_log_likelihood(laplace, jnp.float32(0.05))
    problem = make_problem(X_0, Identity(x_shape=SHAPE), 0.07, noise)
    if name in GAUSSIAN_ONLY:
        with pytest.raises(UserError, match=GAUSSIAN_ONLY[name]):
            sample(SAMPLERS[name], problem)
        return
    samples = sample(SAMPLERS[name], problem)
    assert np.abs(samples - np.asarray(X_0)).mean() < 0.15 < np.abs(X_0).mean()
