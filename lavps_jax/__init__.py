"""Diffusion posterior sampling with likelihood guidance and amortized variational inference."""

from importlib import metadata

from lavps_jax import data, diffusion, metrics, networks, operators, problems, samplers, training
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.given_networks import denoiser_from
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.operators import linear_operator, nonlinear_operator
from lavps_jax.problems.noise import Custom, Gaussian, PoissonGaussian
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, simulate
from lavps_jax.runs.loading import load_amortized, load_generator, load_prior, load_supervised
from lavps_jax.samplers import DDIM, DPS, LAVPS, MGDM, Samples, sample
from lavps_jax.testing import check_operator

__version__ = metadata.version("lavps-jax")

__all__ = [
    "DDIM",
    "DPS",
    "LAVPS",
    "MGDM",
    "Custom",
    "Denoiser",
    "Gaussian",
    "Poisson",
    "PoissonGaussian",
    "Problem",
    "Samples",
    "Schedule",
    "UserError",
    "__version__",
    "check_operator",
    "data",
    "denoiser_from",
    "diffusion",
    "linear_operator",
    "load_amortized",
    "load_generator",
    "load_prior",
    "load_supervised",
    "metrics",
    "networks",
    "nonlinear_operator",
    "operators",
    "problems",
    "sample",
    "samplers",
    "simulate",
    "training",
]
