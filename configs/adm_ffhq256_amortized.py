"""An amortized network of LAVPS on the ADM prior of FFHQ, for motion blur.

Needs the prior: see configs/adm_ffhq256_prior.py; a prior of any kind can stand in its place.
Training: python train.py configs/adm_ffhq256_amortized.py
Sampling: python sample.py configs/adm_ffhq256.py operator:motion-blur --operator.size 21 \
    --operator.intensity 0.9 sampler:lavps --sampler.amortized runs/adm_ffhq256_amortized/weights
"""

from lavps_jax.config.settings import AmortizedTask, OptimizerConfig, TrainConfig
from lavps_jax.data import FolderData
from lavps_jax.networks import AmortizedNetworkConfig
from lavps_jax.networks.sizes import FFHQ256
from lavps_jax.operators import families


def get_config() -> TrainConfig:
    return TrainConfig(
        task=AmortizedTask(
            network=AmortizedNetworkConfig(FFHQ256, mean_unit="prior_std", guidance=True),
            prior="pretrained/adm_ffhq256/prior",
            operator=families.MotionBlur(size=21, intensity=0.9),
        ),
        train_data=FolderData("data/ffhq256/train", size=256),
        validation_data=FolderData("data/ffhq256/validation", size=256),
        run_dir="runs/adm_ffhq256_amortized",
        batch_size=16,
        num_train_steps=50_000,
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=500, weight_decay=1e-5),
        num_validation_images=32,
    )
