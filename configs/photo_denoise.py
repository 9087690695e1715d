"""Posterior samples of three noisy photographs.

Command: python sample.py configs/photo_denoise.py
A photograph of your own: lavps-sample photo FILE --task denoise
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo_deblur.py")
    return dataclasses.replace(
        config,
        operator=families.Identity(),
        sigma_y=0.12,
        out_dir="outputs/photo_denoise",
    )
