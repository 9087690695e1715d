"""Posterior samples of degraded images of 32 x 32 pixels with the DDPM prior of CIFAR-10.

Needs the prior: see configs/ddpm_cifar10_prior.py.
Sampling: python sample.py configs/ddpm_cifar10.py --data.path MY_IMAGES
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import FolderData
from lavps_jax.operators import families
from lavps_jax.samplers import DPS, MGDM, DiffPIR


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/ddpm_cifar10/prior",
        data=FolderData("data/cifar10/test", size=32),
        operator=families.SuperResolution(4),
        sampler=MGDM(),
        compare_with=(DPS(num_steps=1000, step_size=1.0), DiffPIR()),
        out_dir="outputs/ddpm_cifar10",
        num_images=8,
        num_particles=1,
        batch_size=1,
    )
