"""The DDPM priors of CelebA-HQ and LSUN, 256 x 256.

Weights: google/ddpm-celebahq-256, -church-256, -bedroom-256, -cat-256 of the Hugging Face hub
(folders in diffusers' layout, Apache-2.0, 455 MB), or celeba_hq.ckpt of the DDRM code.
  python -m lavps_jax.convert DOWNLOADS/ddpm-celebahq-256 pretrained/ddpm_celebahq256/prior
  python -m lavps_jax.convert DOWNLOADS/celeba_hq.ckpt pretrained/ddpm_celebahq256/prior \
      --preset configs/ddpm256_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import DDPM256


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(DDPM256, parameterisation=VP()), side=256)
