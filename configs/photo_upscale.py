"""Posterior samples of three photographs of half their size.

Command: python sample.py configs/photo_upscale.py
A photograph of your own: lavps-sample photo FILE --task upscale
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo_deblur.py")
    return dataclasses.replace(
        config,
        operator=families.SuperResolution(factor=2),
        sigma_y=0.02,
        out_dir="outputs/photo_upscale",
    )
