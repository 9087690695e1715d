"""The ADM prior of FFHQ faces, 256 x 256, that the DPS code and most of its followers load.

Weights: ffhq_10m.pt (357 MiB, from the DPS code's page; no licence is given, and its images are CC
BY-NC-SA 4.0: use it, do not pass it on).
  python -m lavps_jax.convert DOWNLOADS/ffhq_10m.pt pretrained/adm_ffhq256/prior \
      --preset configs/adm_ffhq256_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.networks.sizes import ADM_FFHQ256


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(ADM_FFHQ256, parameterisation=VP()), side=256)
