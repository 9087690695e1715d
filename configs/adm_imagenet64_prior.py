"""The ADM prior of ImageNet with classes, 64 x 64, with a cosine schedule.

Weights: 64x64_diffusion.pt (1.1 GB, of the guided-diffusion release, MIT; its model card asks for
use in research alone). It has no null class: sampling needs --class-label.
  python -m lavps_jax.convert DOWNLOADS/64x64_diffusion.pt pretrained/adm_imagenet64/prior \
      --preset configs/adm_imagenet64_prior.py
"""

from lavps_jax.config.settings import PriorTask, PublishedPrior
from lavps_jax.diffusion.parameterisations import VP
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks.sizes import ADM_IMAGENET64


def get_config() -> PublishedPrior:
    trained = Schedule(kind="cosine", least_alpha_bar=0.0)
    task = PriorTask(ADM_IMAGENET64, parameterisation=VP("eps", trained))
    return PublishedPrior(task, Schedule(kind="cosine"), side=64, new_attention_order=True)
