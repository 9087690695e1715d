"""A diffusion prior for 256-pixel photographs of faces (FFHQ), of the published shape.

Training: python train.py configs/ffhq256_prior.py
Weights of the published release, whole or in parts, without training:
  python -m lavps_jax.convert DOWNLOADS/ffhq256.pt pretrained/ffhq256/prior \
      --preset configs/ffhq256_prior.py
Time at 20 TFLOP/s: 14 days; counted, not measured, see docs/parity.md.
"""

from lavps_jax.config.settings import OptimizerConfig, PriorTask, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks.sizes import FFHQ256


def get_config() -> TrainConfig:
    return TrainConfig(
        task=PriorTask(FFHQ256, log_sigma_mean=-1.2, log_sigma_std=1.2),
        train_data=FolderData("data/ffhq256/train", size=256),
        validation_data=FolderData("data/ffhq256/validation", size=256),
        run_dir="runs/ffhq256_prior",
        batch_size=256,
        num_train_steps=400_000,
        optimizer=OptimizerConfig(peak_lr=1e-4, schedule="constant", ema_decay=0.9999),
        num_validation_images=32,
    )
