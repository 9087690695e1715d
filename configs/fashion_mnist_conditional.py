"""A supervised denoiser of motion blur on Fashion-MNIST, in Palette form: a baseline.

It is told y through A^+ y alone, and samples by DDIM without a likelihood.

Training: python train.py configs/fashion_mnist_conditional.py
Sampling: python sample.py configs/fashion_mnist.py --no-compare \\
    sampler:conditional-config --sampler.denoiser runs/motion_blur_palette/weights
"""

from lavps_jax.config import ConditionalTask, OptimizerConfig, TrainConfig, load_preset
from lavps_jax.data import TfdsData
from lavps_jax.networks import ConditionalDenoiserConfig
from lavps_jax.operators import MotionBlur


def get_config() -> TrainConfig:
    # As large as an amortized network.
    backbone = load_preset("configs/fashion_mnist_amortized.py").task.network.backbone
    return TrainConfig(
        task=ConditionalTask(
            network=ConditionalDenoiserConfig(backbone), operator=MotionBlur(size=9, intensity=0.9)
        ),
        train_data=TfdsData("fashion_mnist", "train", pad_to=32),
        validation_data=TfdsData("fashion_mnist", "test", pad_to=32),
        run_dir="runs/motion_blur_palette",
        num_train_steps=6_000,
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=100, ema_decay=0.999),
        export_dtype="float16",
    )
