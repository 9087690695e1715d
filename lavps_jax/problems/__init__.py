"""The inverse problem y = A(x_0) + noise: noise models, likelihood, simulation."""

from lavps_jax.problems.noise import Custom, Gaussian, Noise, PoissonGaussian
from lavps_jax.problems.noise_estimate import estimate_sigma_y
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, log_likelihood, residual_chi2, simulate

__all__ = [
    "Custom",
    "Gaussian",
    "Noise",
    "Poisson",
    "PoissonGaussian",
    "Problem",
    "estimate_sigma_y",
    "log_likelihood",
    "residual_chi2",
    "simulate",
]
