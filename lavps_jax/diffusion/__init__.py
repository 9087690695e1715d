"""The diffusion: noise schedule, bridges between times, and denoisers."""

from lavps_jax.diffusion.denoisers import Denoiser, NetworkDenoiser
from lavps_jax.diffusion.given_networks import denoiser_from
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.parameterisations import EDM, VE, VP, Flow
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.diffusion.supervised import SupervisedDenoiser

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Denoiser",
    "NetworkDenoiser",
    "Flow",
    "GaussianMixture",
    "Schedule",
    "SupervisedDenoiser",
    "denoiser_from",
    "time_grid",
]
