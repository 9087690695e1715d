"""Posterior samples of three photographs out of JPEG files of low quality.

Command: python sample.py configs/photo_dejpeg.py
A photograph of your own: lavps-sample photo FILE --task dejpeg
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families
from lavps_jax.samplers import MGDM


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo_deblur.py")
    return dataclasses.replace(
        config,
        operator=families.JPEG(quality=20),
        sampler=MGDM(num_steps=30),  # From Gauss-Newton steps it misses what rounding hides.
        sigma_y=0.02,
        out_dir="outputs/photo_dejpeg",
    )
