"""The shipped Fashion-MNIST prior, 32 x 32 grey.

Command: python train.py configs/fashion_mnist_prior.py
Hardware and time: see pretrained/fashion_mnist/prior/card.json.
"""

from lavps_jax.config.settings import OptimizerConfig, PriorTask, TrainConfig
from lavps_jax.data import TfdsData
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig, NeighbourhoodAttention


def get_config() -> TrainConfig:
    network = HDiTConfig(
        in_channels=1,
        out_channels=1,
        patch_size=2,
        levels=(
            LevelConfig(width=64, depth=1, attention=NeighbourhoodAttention(3, head_size=32)),
            LevelConfig(width=192, depth=4, attention=GlobalAttention(head_size=32)),
        ),
        mapping_width=128,
        mapping_depth=1,
    )
    return TrainConfig(
        task=PriorTask(network),
        train_data=TfdsData("fashion_mnist", "train", pad_to=32),
        validation_data=TfdsData("fashion_mnist", "test", pad_to=32),
        run_dir="runs/fashion_mnist_prior",
        num_train_steps=8_000,
        optimizer=OptimizerConfig(peak_lr=1e-3, ema_decay=0.999),
        export_dtype="float16",
    )
