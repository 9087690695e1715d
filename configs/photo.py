"""Posterior samples of three blurred photographs: LAVPS next to MGDM, DPS and FAST-DIPS.

Three minutes on two cores.

Command: python sample.py configs/photo.py
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.samplers import DPS, MGDM, FastDIPS, Inner


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/photo_deblur.py")
    return dataclasses.replace(
        config,
        compare_with=(
            MGDM(num_steps=30, inner_low_noise=Inner(3)),
            DPS(num_steps=30),
            FastDIPS(num_steps=30),
        ),
        sigma_y=0.05,
        out_dir="outputs/photo",
    )
