"""One supervised denoiser for several operators on Fashion-MNIST, which sees their pivot (EPS).

Otherwise configs/fashion_mnist_supervised.py. It takes any linear operator.

Training: python train.py configs/fashion_mnist_supervised_pivot.py
Sampling: python sample.py configs/fashion_mnist.py --no-compare \\
    sampler:supervised --sampler.denoiser benchmarks/weights/pivot
"""

import dataclasses
from typing import Any

from lavps_jax.config.settings import TrainConfig, load_preset
from lavps_jax.networks import SupervisedNetworkConfig
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    config: Any = load_preset("configs/fashion_mnist_supervised.py")
    operators = families.Mixture(
        (
            families.MotionBlur(9),
            families.GaussianBlur(9, 1.5),
            families.SuperResolution(2),
            families.RandomPixels(),
        )
    )
    network = SupervisedNetworkConfig(config.task.network.backbone, pivot=True)
    task = dataclasses.replace(config.task, network=network, operator=operators)
    return dataclasses.replace(config, task=task, run_dir="runs/pivot")
