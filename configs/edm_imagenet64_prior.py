"""The ADM prior of ImageNet with classes that EDM trained, 64 x 64.

Weights: edm-imagenet-64x64-cond-adm as a state dict (.pt or .safetensors), not the .pkl, which is
code; CC BY-NC-SA 4.0, which rules out commercial use. It learned no null class: give --class-label.
  python -m lavps_jax.convert DOWNLOADS/edm-imagenet-64x64-cond-adm.pt \
      pretrained/edm_imagenet64/prior --preset configs/edm_imagenet64_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.networks.sizes import EDM_IMAGENET64


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(EDM_IMAGENET64), side=64)
