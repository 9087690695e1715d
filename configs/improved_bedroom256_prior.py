"""The prior of LSUN bedrooms of Improved DDPM, 256 x 256.

Weights: lsun_uncond_100M_1200K_bs128.pt (of the improved-diffusion release, MIT).
  python -m lavps_jax.convert DOWNLOADS/lsun_uncond_100M_1200K_bs128.pt \
      pretrained/improved_bedroom256/prior --preset configs/improved_bedroom256_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import IMPROVED_BEDROOM256


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(IMPROVED_BEDROOM256, parameterisation=VP()), side=256)
