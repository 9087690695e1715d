"""Posterior samples of blurred Fashion-MNIST test images: LAVPS next to MGDM and DPS.

Command: python sample.py configs/fashion_mnist.py
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import families
from lavps_jax.samplers import DPS, LAVPS, MGDM


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/fashion_mnist/prior",
        data=ShippedData(),
        operator=families.MotionBlur(size=9, intensity=0.9),
        sampler=LAVPS(amortized="pretrained/fashion_mnist/motion_blur"),
        compare_with=(MGDM(), DPS()),
        out_dir="outputs/fashion_mnist",
        num_images=4,  # Two to three minutes on two cores.
        num_particles=2,
        overwrite=True,
    )
