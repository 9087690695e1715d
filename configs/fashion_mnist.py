"""Posterior samples of blurred Fashion-MNIST test images: LAVPS next to MGDM and DPS.

Command: python sample.py configs/fashion_mnist.py
"""

from lavps_jax.config import DPSConfig, InnerConfig, LAVPSConfig, MGDMConfig, SampleConfig
from lavps_jax.data import ShippedData
from lavps_jax.operators import MotionBlur


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/fashion_mnist/prior",
        data=ShippedData(pad_to=32),
        operator=MotionBlur(size=9, intensity=0.9),
        sampler=LAVPSConfig(
            amortized="pretrained/fashion_mnist/motion_blur",
            inner_low_noise=InnerConfig(1),
            high_idx=50,
            best_of=False,  # The operator is one that the network was trained on.
        ),
        compare_with=(MGDMConfig(inner_low_noise=InnerConfig(10), high_idx=50), DPSConfig()),
        out_dir="outputs/fashion_mnist",
        num_particles=2,
        overwrite=True,
    )
