"""The prior of CIFAR-10 of Improved DDPM, 32 x 32, with 4000 times of a cosine schedule.

Weights: cifar10_uncond_50M_500K.pt (of the improved-diffusion release, MIT).
  python -m lavps_jax.convert DOWNLOADS/cifar10_uncond_50M_500K.pt \
      pretrained/improved_cifar10/prior --preset configs/improved_cifar10_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.sizes import IMPROVED_CIFAR10


def get_config() -> PublishedPrior:
    trained = Schedule(4000, kind="cosine", least_alpha_bar=0.0)
    task = PriorTask(IMPROVED_CIFAR10, parameterisation=VP("eps", trained))
    return PublishedPrior(task, Schedule(kind="cosine"), side=32)
