"""A diffusion prior for 256-pixel photographs (ImageNet), of the published shape.

Training: python train.py configs/imagenet256_prior.py
  (train_classes.txt has a line for every image: its path below the folder, and its class from 0)
Weights of the published release, whole or in parts, without training:
  python -m lavps_jax.convert DOWNLOADS/imagenet256.pt pretrained/imagenet256/prior \
      --preset configs/imagenet256_prior.py
Time at 20 TFLOP/s: 72 days; counted, not measured, see docs/parity.md.
"""

from lavps_jax.config.settings import OptimizerConfig, PriorTask, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks.sizes import IMAGENET256


def get_config() -> TrainConfig:
    return TrainConfig(
        task=PriorTask(IMAGENET256, log_sigma_mean=-1.2, log_sigma_std=1.2),
        train_data=FolderData(
            "data/imagenet256/train", 256, classes="data/imagenet256/train_classes.txt"
        ),
        validation_data=FolderData(
            "data/imagenet256/validation", 256, classes="data/imagenet256/validation_classes.txt"
        ),
        run_dir="runs/imagenet256_prior",
        batch_size=256,
        num_train_steps=400_000,
        optimizer=OptimizerConfig(peak_lr=1e-4, schedule="constant", ema_decay=0.9999),
        num_validation_images=32,
    )
