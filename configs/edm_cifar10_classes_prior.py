"""The DDPM++ prior of CIFAR-10 with classes that EDM trained, 32 x 32.

Weights: edm-cifar10-32x32-cond-vp as a state dict (.pt or .safetensors), not the .pkl, which is
code; CC BY-NC-SA 4.0, which rules out commercial use. It learned no null class: give --class-label.
  python -m lavps_jax.convert DOWNLOADS/edm-cifar10-32x32-cond-vp.pt \
      pretrained/edm_cifar10_classes/prior --preset configs/edm_cifar10_classes_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.networks.sizes import EDM_CIFAR10_CLASSES


def get_config() -> PublishedPrior:
    return PublishedPrior(PriorTask(EDM_CIFAR10_CLASSES), side=32)
