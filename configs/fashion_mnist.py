"""Posterior samples of blurred Fashion-MNIST test images, MGDM next to DPS.

Command: python sample.py configs/fashion_mnist.py
"""

from lavps_jax.config import DPSConfig, MGDMConfig, SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import MotionBlur


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/fashion_mnist/prior",
        data=ShippedData(pad_to=32),
        operator=MotionBlur(size=9, intensity=0.9),
        sampler=MGDMConfig(),
        compare_with=(DPSConfig(),),
        out_dir="outputs/fashion_mnist",
        num_particles=2,
        overwrite=True,
    )
