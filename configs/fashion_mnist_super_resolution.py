"""Posterior samples of Fashion-MNIST test images of half the size.

The amortized start is used at the last 24 blocks only, chosen on test[200:264], see
docs/results/first_slice.md.

Command: python sample.py configs/fashion_mnist_super_resolution.py
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/fashion_mnist.py")
    lavps = dataclasses.replace(
        config.sampler, amortized="pretrained/fashion_mnist/super_resolution", high_idx=25
    )
    return dataclasses.replace(
        config,
        operator=families.SuperResolution(factor=2),
        sampler=lavps,
        out_dir="outputs/fashion_mnist_super_resolution",
    )
