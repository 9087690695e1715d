"""The ADM prior of ImageNet with classes, 128 x 128.

Weights: 128x128_diffusion.pt (1.7 GB, of the guided-diffusion release, MIT; its model card asks for
use in research alone). It has no null class: sampling needs --class-label.
  python -m lavps_jax.convert DOWNLOADS/128x128_diffusion.pt \
      pretrained/adm_imagenet128/prior --preset configs/adm_imagenet128_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import ADM_IMAGENET128


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(ADM_IMAGENET128, parameterisation=VP()), side=128)
