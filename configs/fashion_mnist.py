"""Posterior samples of blurred Fashion-MNIST test images: LAVPS next to MGDM and DPS.

Command: python sample.py configs/fashion_mnist.py
"""

import dataclasses

from lavps_jax.config import DPSConfig, InnerConfig, LAVPSConfig, MGDMConfig, SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import MotionBlur


def get_config() -> SampleConfig:
    # Blocks that end at half of t_prev, and Adam steps of .5 standard deviations of their prior.
    one = InnerConfig(1, learning_rate=0.5, learning_rate_unit="prior_std")
    ten = dataclasses.replace(one, num_inner_steps=10)
    lavps = LAVPSConfig(
        amortized="pretrained/fashion_mnist/motion_blur",
        inner=one,
        inner_low_noise=one,
        high_idx=50,
        tau_rule="midpoint",
    )
    mgdm = MGDMConfig(inner=one, inner_low_noise=ten, high_idx=50, tau_rule="midpoint")
    return SampleConfig(
        prior="pretrained/fashion_mnist/prior",
        data=ShippedData(pad_to=32),
        operator=MotionBlur(size=9, intensity=0.9),
        sampler=lavps,
        compare_with=(mgdm, DPSConfig()),
        out_dir="outputs/fashion_mnist",
        num_images=4,  # Two to three minutes on two cores.
        num_particles=2,
        overwrite=True,
    )
