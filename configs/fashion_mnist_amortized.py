"""The shipped amortized networks for Fashion-MNIST; as it stands, the one for motion blur.

Commands:
  python train.py configs/fashion_mnist_amortized.py --run-dir runs/motion_blur
  python train.py configs/fashion_mnist_amortized.py --run-dir runs/super_resolution \
      --num-train-steps 6000 task:amortized-task \
      task.operator:super-resolution --task.operator.factor 2
  python train.py configs/fashion_mnist_amortized.py --run-dir runs/inpainting \
      --num-train-steps 6000 task:amortized-task task.operator:random-pixels
Hardware and time: see pretrained/fashion_mnist/README.md.
"""

from lavps_jax.config.settings import AmortizedTask, OptimizerConfig, TrainConfig
from lavps_jax.data import TfdsData
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    GlobalAttention,
    HDiTConfig,
    LevelConfig,
    NeighbourhoodAttention,
)
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    backbone = HDiTConfig(
        in_channels=1,
        out_channels=1,
        patch_size=2,
        levels=(
            LevelConfig(width=48, depth=1, attention=NeighbourhoodAttention(3, head_size=16)),
            LevelConfig(width=128, depth=3, attention=GlobalAttention(head_size=32)),
        ),
        mapping_width=96,
        mapping_depth=1,
    )
    return TrainConfig(
        task=AmortizedTask(
            network=AmortizedNetworkConfig(backbone, mean_unit="prior_std", guidance=True),
            prior="pretrained/fashion_mnist/prior",
            operator=families.MotionBlur(size=9, intensity=0.9),
            states="chain",
            block_weight="expected_residual",
        ),
        train_data=TfdsData("fashion_mnist", "train", pad_to=32),
        validation_data=TfdsData("fashion_mnist", "test", pad_to=32),
        run_dir="runs/motion_blur",
        batch_size=16,
        num_train_steps=2_000,
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=50, ema_decay=0.99),
        validate_every=500,
        checkpoint_every=100,
        export_dtype="float16",
    )
