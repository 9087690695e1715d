"""The prior of ImageNet of Improved DDPM, 64 x 64, with 4000 times of a cosine schedule.

Weights: imagenet64_uncond_100M_1500K.pt (of the improved-diffusion release, MIT).
  python -m lavps_jax.convert DOWNLOADS/imagenet64_uncond_100M_1500K.pt \
      pretrained/improved_imagenet64/prior --preset configs/improved_imagenet64_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.sizes import IMPROVED_IMAGENET64


def get_config() -> PublishedPrior:
    trained = Schedule(4000, kind="cosine", least_alpha_bar=0.0)
    task = PriorTask(IMPROVED_IMAGENET64, parameterisation=VP("eps", trained))
    return PublishedPrior(task, Schedule(kind="cosine"), side=64)
