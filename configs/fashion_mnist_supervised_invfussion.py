"""A supervised denoiser of motion blur on Fashion-MNIST, in InvFussion form: a baseline.

Its levels degrade their features with the operator; otherwise configs/fashion_mnist_supervised.py.
A^+ is the published one there, the blur itself: the regularised inverse takes many steps, in every
layer.

Training: python train.py configs/fashion_mnist_supervised_invfussion.py
Hardware and time: see benchmarks/weights/README.md.
Sampling: python sample.py configs/fashion_mnist.py --no-compare \\
    sampler:supervised --sampler.denoiser benchmarks/weights/invfussion
"""

import dataclasses
from typing import Any

from lavps_jax.config.settings import TrainConfig, load_preset
from lavps_jax.networks import SupervisedNetworkConfig
from lavps_jax.networks.sizes import with_degradation


def get_config() -> TrainConfig:
    config: Any = load_preset("configs/fashion_mnist_supervised.py")
    network = SupervisedNetworkConfig(
        with_degradation(config.task.network.backbone), inverse="published"
    )
    return dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, network=network),
        run_dir="runs/motion_blur_invfussion",
        num_train_steps=24_500,
    )
