"""The ADM prior of ImageNet without classes, 256 x 256.

Weights: 256x256_diffusion_uncond.pt (2.1 GB, of the guided-diffusion release, MIT; its model card
asks for use in research alone).
  python -m lavps_jax.convert DOWNLOADS/256x256_diffusion_uncond.pt \
      pretrained/adm_imagenet256/prior --preset configs/adm_imagenet256_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import ADM_IMAGENET256


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(ADM_IMAGENET256, parameterisation=VP()), side=256)
