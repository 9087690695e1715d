"""A supervised denoiser of motion blur for 256-pixel photographs of faces (FFHQ): a baseline.

Training: python train.py configs/ffhq256_supervised.py
Sampling: python sample.py configs/ffhq256.py --no-compare \\
    sampler:supervised --sampler.denoiser runs/ffhq256_supervised/weights
Time: that of configs/ffhq256_prior.py for as many steps; the network is the prior's.
"""

from lavps_jax.config.settings import OptimizerConfig, SupervisedTask, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import SupervisedNetworkConfig
from lavps_jax.networks.sizes import FFHQ256
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    return TrainConfig(
        task=SupervisedTask(
            network=SupervisedNetworkConfig(FFHQ256, inverse="published"),
            operator=families.MotionBlur(size=21, intensity=0.9),
            log_sigma_mean=-1.2,
            log_sigma_std=1.2,
        ),
        train_data=FolderData("data/ffhq256/train", size=256),
        validation_data=FolderData("data/ffhq256/validation", size=256),
        run_dir="runs/ffhq256_supervised",
        batch_size=256,
        num_train_steps=400_000,
        optimizer=OptimizerConfig(peak_lr=1e-4, schedule="constant", ema_decay=0.9999),
        num_validation_images=32,
    )
