"""A generator of motion blur on Fashion-MNIST that samples in one evaluation (DAVI).

It begins as the supervised denoiser of benchmarks/weights/palette, and has no likelihood when it
samples: fast on the blur it was trained for, and without a safeguard elsewhere.

Training: python train.py configs/fashion_mnist_one_step.py
Sampling: python sample.py configs/fashion_mnist.py --no-compare \\
    sampler:one-step --sampler.generator benchmarks/weights/one_step
"""

from lavps_jax.config.settings import OneStepTask, OptimizerConfig, TrainConfig, load_preset
from lavps_jax.data import TfdsData


def get_config() -> TrainConfig:
    supervised = load_preset("configs/fashion_mnist_supervised.py").task
    return TrainConfig(
        task=OneStepTask(
            network=supervised.network,
            denoiser="benchmarks/weights/palette",
            prior="pretrained/fashion_mnist/prior",
            operator=supervised.operator,
        ),
        train_data=TfdsData("fashion_mnist", "train", pad_to=32),
        validation_data=TfdsData("fashion_mnist", "test", pad_to=32),
        run_dir="runs/motion_blur_one_step",
        batch_size=32,
        num_train_steps=4_000,
        # Clipping hits the draws of the divergence more than the likelihood: not often.
        optimizer=OptimizerConfig(
            peak_lr=1e-4, schedule="constant", warmup_steps=100, clip_norm=10.0, ema_decay=0.999
        ),
        validate_every=250,
        checkpoint_every=250,
        export_dtype="float16",
    )
