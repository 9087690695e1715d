"""Posterior samples of three photographs, blurred by a shaken camera.

Command: python sample.py configs/photo_deblur.py
A photograph of your own: lavps-sample photo FILE --task deblur
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo.py")
    return dataclasses.replace(
        config,
        operator=families.MotionBlur(size=31, intensity=0.5),
        compare_with=(),
        sigma_y=0.02,
        out_dir="outputs/photo_deblur",
    )
