"""Posterior samples of three photographs, blurred by a shaken camera.

LAVPS without gradient steps, K = 0: no derivative of the denoiser.

Command: python sample.py configs/photo_deblur.py
A photograph of your own: lavps-sample photo FILE --task deblur
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import families
from lavps_jax.samplers import LAVPS, Inner


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/photo/prior",
        data=ShippedData("photographs"),
        operator=families.MotionBlur(size=31, intensity=0.5),
        sampler=LAVPS(
            amortized="pretrained/photo/amortized",
            num_steps=30,
            grid_power=2.0,
            zero_shot="gauss_newton",
            inner=Inner(0),
            inner_low_noise=Inner(0),
        ),
        sigma_y=0.02,
        out_dir="outputs/photo_deblur",
        num_images=3,
        num_particles=1,
        overwrite=True,
    )
