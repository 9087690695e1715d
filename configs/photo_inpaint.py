"""Posterior samples of three photographs, each with a hole.

By DiffPIR: MGDM of so few steps smears what is around a hole into it.

Command: python sample.py configs/photo_inpaint.py
A photograph of your own: lavps-sample photo FILE --task inpaint
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families
from lavps_jax.samplers import DiffPIR


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo_deblur.py")
    return dataclasses.replace(
        config,
        operator=families.RandomBox(min_fraction=0.1, max_fraction=0.2),
        sampler=DiffPIR(num_steps=30),
        sigma_y=0.02,
        out_dir="outputs/photo_inpaint",
    )
