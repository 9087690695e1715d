"""The diffusion: noise schedule, bridges between times, and denoisers."""

from lavps_jax.diffusion.denoisers import Denoiser, EDMDenoiser
from lavps_jax.diffusion.mixtures import GaussianMixture
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.diffusion.supervised import SupervisedDenoiser

__all__ = [
    "Denoiser",
    "EDMDenoiser",
    "GaussianMixture",
    "Schedule",
    "SupervisedDenoiser",
    "time_grid",
]
