"""The shipped prior of photographs, in colour and of any size.

Command: python train.py configs/photo_prior.py --train-data.path TRAIN --validation-data.path TEST,
with folders of photographs of at least 64 and 256 pixels a side.
Hardware, time and photographs: see pretrained/photo/prior/card.json and CREDITS.csv beside it.
"""

from lavps_jax.config.settings import OptimizerConfig, PriorTask, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import LocalUNetConfig


def get_config() -> TrainConfig:
    return TrainConfig(
        task=PriorTask(LocalUNetConfig(), log_sigma_mean=-0.5, log_sigma_std=1.9),
        train_data=FolderData(
            "photographs/train", channels=3, crop=64, reduce=(1, 1, 2, 3), flip=True
        ),
        validation_data=FolderData("photographs/test", channels=3, crop=256),
        run_dir="runs/photo_prior",
        batch_size=16,
        num_train_steps=8_000,
        optimizer=OptimizerConfig(peak_lr=1e-3, ema_decay=0.999),
        num_validation_images=16,
        validate_every=500,
        checkpoint_every=250,
        export_dtype="float16",
    )
