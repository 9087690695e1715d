"""An amortized network of photographs: one for all linear operators that it may meet.

Command: python train.py configs/photo_amortized.py --train-data.path TRAIN
--validation-data.path TEST, with folders of photographs of at least 72 and 144 pixels a side.

Never trained on: motion blur that is straighter or longer, discs, super-resolution by 8, half
images, and whatever is not linear.
"""

from lavps_jax.config.settings import AmortizedTask, OptimizerConfig, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import AmortizedNetworkConfig, LocalUNetConfig
from lavps_jax.operators import families

BLURS = (
    families.MotionBlur(31, intensity=(0.3, 1.0), extent=(0.15, 1.0)),
    families.GaussianBlur(31, std=(0.8, 4.0)),
    families.AnisotropicBlur(31, std=(1.5, 5.0), std_across=(0.8, 2.0)),
)
MASKS = (families.RandomPixels(0.05, 0.5), families.RandomBox(0.1, 0.5))
SMALLER = tuple(
    kind(factor)
    for kind in (families.SuperResolution, families.SuperResolutionBicubic)
    for factor in (2, 3, 4)
)
OPERATORS = families.Mixture(
    (*BLURS, *MASKS, *SMALLER, families.Identity()),
    weights=(4, 1, 1, 2, 1, *(0.5 for _ in SMALLER), 1),
)


def get_config() -> TrainConfig:
    network = AmortizedNetworkConfig(
        LocalUNetConfig(),
        mean_unit="prior_std",
        guidance=True,
        residual_of="gauss_newton",
        state_scale="data",
    )
    return TrainConfig(
        task=AmortizedTask(
            network=network,
            prior="pretrained/photo/prior",
            operator=OPERATORS,
            sigma_y=(0.01, 0.2),
            num_steps=30,
            grid_power=2.0,
            high_idx=18,
            states="chain",
            block_weight="expected_residual",
        ),
        train_data=FolderData(
            "photographs/train", channels=3, crop=72, reduce=(1, 1, 2, 3), flip=True
        ),
        validation_data=FolderData("photographs/test", channels=3, crop=144),
        run_dir="runs/photo_amortized",
        batch_size=8,
        num_train_steps=3_000,
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=100, ema_decay=0.995),
        num_validation_images=16,
        validate_every=500,
        checkpoint_every=100,
        export_dtype="float16",
    )
