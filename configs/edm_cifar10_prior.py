"""The DDPM++ prior of CIFAR-10 that EDM trained, 32 x 32.

Weights: edm-cifar10-32x32-uncond-vp as a state dict (.pt or .safetensors), not the .pkl, which is
code; CC BY-NC-SA 4.0, which rules out commercial use.
  python -m lavps_jax.convert DOWNLOADS/edm-cifar10-32x32-uncond-vp.pt \
      pretrained/edm_cifar10/prior --preset configs/edm_cifar10_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.networks.sizes import EDM_CIFAR10


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(EDM_CIFAR10), side=32)
