"""Posterior samples of degraded faces with the ADM prior of FFHQ, 256 x 256.

Needs the prior: see configs/adm_ffhq256_prior.py. A network for LAVPS:
configs/adm_ffhq256_amortized.py.
The tasks of the field at sigma_y = .05: super-resolution by 4 here, and
  operator:gaussian-blur --operator.size 61 --operator.std 3
  operator:motion-blur --operator.size 61 --operator.intensity 0.5
  operator:centre-box
  operator:random-pixels --operator.min-observed 0.08 --operator.max-observed 0.3
Sampling: python sample.py configs/adm_ffhq256.py --data.path MY_IMAGES
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import FolderData
from lavps_jax.operators import families
from lavps_jax.samplers import DPS, MGDM, DiffPIR


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/adm_ffhq256/prior",
        data=FolderData("data/ffhq256/test", size=256),
        operator=families.SuperResolution(4),
        sampler=MGDM(),
        compare_with=(DPS(num_steps=1000, step_size=1.0), DiffPIR()),
        out_dir="outputs/adm_ffhq256",
        num_images=8,
        num_particles=1,
        batch_size=1,
    )
