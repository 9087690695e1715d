"""The NCSN++ priors of FFHQ and AFHQv2 that EDM trained, 64 x 64.

Weights: edm-ffhq-64x64-uncond-ve as a state dict (.pt or .safetensors), not the .pkl, which is
code; CC BY-NC-SA 4.0, which rules out commercial use.
  python -m lavps_jax.convert DOWNLOADS/edm-ffhq-64x64-uncond-ve.pt \
      pretrained/edm_64_ncsn/prior --preset configs/edm_64_ncsn_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.networks.sizes import EDM_64_NCSN


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(EDM_64_NCSN), side=64)
