"""A supervised denoiser of motion blur on Fashion-MNIST, in Palette form: a baseline.

It is told y through A^+ y alone, and samples by DDIM without a likelihood.

Training: python train.py configs/fashion_mnist_supervised.py
Hardware and time: see benchmarks/weights/README.md.
Sampling: python sample.py configs/fashion_mnist.py --no-compare \\
    sampler:supervised --sampler.denoiser benchmarks/weights/palette
"""

from lavps_jax.config.settings import OptimizerConfig, SupervisedTask, TrainConfig, load_preset
from lavps_jax.data import TfdsData
from lavps_jax.networks import SupervisedNetworkConfig
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    # As large as an amortized network.
    backbone = load_preset("configs/fashion_mnist_amortized.py").task.network.backbone
    return TrainConfig(
        task=SupervisedTask(
            network=SupervisedNetworkConfig(backbone),
            operator=families.MotionBlur(size=9, intensity=0.9),
        ),
        train_data=TfdsData("fashion_mnist", "train", pad_to=32),
        validation_data=TfdsData("fashion_mnist", "test", pad_to=32),
        run_dir="runs/motion_blur_palette",
        batch_size=32,
        num_train_steps=3_500,
        # At a constant rate a run can be cut where its time ends.
        optimizer=OptimizerConfig(
            peak_lr=7e-4, schedule="constant", warmup_steps=100, ema_decay=0.9995
        ),
        validate_every=500,
        export_dtype="float16",
    )
