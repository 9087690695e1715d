"""The DDPM++ priors of FFHQ and AFHQv2 that EDM trained, 64 x 64.

Weights: edm-ffhq-64x64-uncond-vp as a state dict (.pt or .safetensors), not the .pkl, which is
code; CC BY-NC-SA 4.0, which rules out commercial use.
  python -m lavps_jax.convert DOWNLOADS/edm-ffhq-64x64-uncond-vp.pt \
      pretrained/edm_64/prior --preset configs/edm_64_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.networks.sizes import EDM_64


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(EDM_64), side=64)
