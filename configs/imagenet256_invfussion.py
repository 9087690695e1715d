"""An amortized start for the ImageNet prior, as published: InvFussion form, motion blur.

The network degrades its own features with the operator; otherwise configs/imagenet256_amortized.py.

Training: python train.py configs/imagenet256_invfussion.py
Weights of the published release (set the operator to the one that they were trained with):
  python -m lavps_jax.convert DOWNLOADS/NAME.pt pretrained/imagenet256/motion_blur_invfussion \
      --preset configs/imagenet256_invfussion.py
Time at 20 TFLOP/s: 36 hours; counted, not measured, see docs/parity.md.
"""

from lavps_jax.config.settings import AmortizedTask, OptimizerConfig, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import AmortizedNetworkConfig
from lavps_jax.networks.sizes import IMAGENET256, with_degradation
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    network = AmortizedNetworkConfig(
        with_degradation(IMAGENET256), noise_embedding="linear", inverse="published"
    )
    return TrainConfig(
        task=AmortizedTask(
            network=network,
            prior="pretrained/imagenet256/prior",
            operator=families.MotionBlur(size=21, intensity=0.9),
            high_idx=30,
            tau_rule="previous",
        ),
        train_data=FolderData("data/imagenet256/train", size=256),
        validation_data=FolderData("data/imagenet256/validation", size=256),
        run_dir="runs/imagenet256_invfussion",
        batch_size=16,
        num_train_steps=50_000,
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=500, weight_decay=1e-5),
        num_validation_images=32,
    )
