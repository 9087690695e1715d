"""The ADM prior of ImageNet with classes, 256 x 256.

Weights: 256x256_diffusion.pt (2.1 GB, of the guided-diffusion release, MIT; its model card asks for
use in research alone). It has no null class: sampling needs --class-label.
  python -m lavps_jax.convert DOWNLOADS/256x256_diffusion.pt \
      pretrained/adm_imagenet256_classes/prior --preset configs/adm_imagenet256_classes_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import ADM_IMAGENET256_CLASSES


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(ADM_IMAGENET256_CLASSES, parameterisation=VP()), side=256)
