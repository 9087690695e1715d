"""An amortized start for the FFHQ prior, as published: Palette form, motion blur.

Training, on the prior that configs/ffhq256_prior.py gives:
  python train.py configs/ffhq256_amortized.py
  python train.py configs/ffhq256_amortized.py --run-dir runs/ffhq256_sr4 \
      task:amortized-task task.operator:super-resolution --task.operator.factor 4
Weights of the published release (set the operator to the one that they were trained with):
  python -m lavps_jax.convert DOWNLOADS/NAME.pt pretrained/ffhq256/motion_blur \
      --preset configs/ffhq256_amortized.py
Time at 20 TFLOP/s: 6 hours; counted, not measured, see docs/parity.md.
"""

from lavps_jax.config.settings import AmortizedTask, OptimizerConfig, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import AmortizedNetworkConfig
from lavps_jax.networks.sizes import FFHQ256
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    return TrainConfig(
        task=AmortizedTask(
            network=AmortizedNetworkConfig(FFHQ256, noise_embedding="linear", inverse="published"),
            prior="pretrained/ffhq256/prior",
            operator=families.MotionBlur(size=21, intensity=0.9),
            high_idx=30,
            tau_rule="previous",
        ),
        train_data=FolderData("data/ffhq256/train", size=256),
        validation_data=FolderData("data/ffhq256/validation", size=256),
        run_dir="runs/ffhq256_motion_blur",
        batch_size=16,
        num_train_steps=50_000,
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=500, weight_decay=1e-5),
        num_validation_images=32,
    )
