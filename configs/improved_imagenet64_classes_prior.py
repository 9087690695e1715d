"""The prior of ImageNet with classes of Improved DDPM, 64 x 64, with 4000 times.

Weights: imagenet64_cond_270M_250K.pt (of the improved-diffusion release, MIT).
It has no null class: sampling needs --class-label.
  python -m lavps_jax.convert DOWNLOADS/imagenet64_cond_270M_250K.pt \
      pretrained/improved_imagenet64_classes/prior \
      --preset configs/improved_imagenet64_classes_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.sizes import IMPROVED_IMAGENET64_CLASSES


def get_config() -> PublishedPrior:
    trained = Schedule(4000, kind="cosine", least_alpha_bar=0.0)
    task = PriorTask(IMPROVED_IMAGENET64_CLASSES, parameterisation=VP("eps", trained))
    return PublishedPrior(task, Schedule(kind="cosine"), side=64)
