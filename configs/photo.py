"""Posterior samples of three blurred photographs, by MGDM from Gauss-Newton steps.

Command: python sample.py configs/photo.py
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import families
from lavps_jax.samplers import MGDM, Inner


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/photo/prior",
        data=ShippedData("photographs"),
        operator=families.MotionBlur(size=31, intensity=0.5),
        sampler=MGDM(
            num_steps=30,
            grid_power=2.0,
            zero_shot="gauss_newton",
            inner=Inner(0),
            inner_low_noise=Inner(1, 0.2),
        ),
        out_dir="outputs/photo",
        num_images=3,
        num_particles=1,
        overwrite=True,
    )
