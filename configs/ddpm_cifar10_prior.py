"""The DDPM prior of CIFAR-10, 32 x 32.

Weights: google/ddpm-cifar10-32 of the Hugging Face hub (a folder in diffusers' layout, Apache-2.0,
143 MB).
  python -m lavps_jax.convert DOWNLOADS/ddpm-cifar10-32 pretrained/ddpm_cifar10/prior
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import DDPM_CIFAR10


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(DDPM_CIFAR10, parameterisation=VP()), side=32)
