"""Posterior samples of three blurred photographs: LAVPS next to MGDM, DPS and FAST-DIPS.

LAVPS without gradient steps, K = 0: no derivative of the denoiser.

Command: python sample.py configs/photo.py
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import families
from lavps_jax.samplers import DPS, LAVPS, MGDM, FastDIPS, Inner


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
        compare_with=(
            MGDM(num_steps=30, inner_low_noise=Inner(3)),
            DPS(num_steps=30),
            FastDIPS(num_steps=30),
        ),
        out_dir="outputs/photo",
        num_images=3,  # In three minutes on two cores.
        num_particles=1,
        overwrite=True,
    )
