"""Posterior samples of three blurred photographs, by MGDM.

Command: python sample.py configs/photo.py
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import families
from lavps_jax.samplers import MGDM


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/photo/prior",
        data=ShippedData("photographs"),
        operator=families.MotionBlur(size=31, intensity=0.5),
        sampler=MGDM(num_steps=30),
        out_dir="outputs/photo",
        num_images=3,
        num_particles=1,
        overwrite=True,
    )
