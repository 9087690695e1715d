"""Posterior samples of degraded FFHQ photographs, 256 x 256: LAVPS next to MGDM and DPS.

Needs the prior and an amortized network: converted from the published release or trained, see
configs/ffhq256_prior.py, configs/ffhq256_amortized.py and configs/ffhq256_invfussion.py.

Sampling: python sample.py configs/ffhq256.py
Evaluation on 300 images, one sample each (the folder holds FFHQ's images 61032 to 61331):
  python sample.py configs/ffhq256.py --num-images 300 --num-particles 1 \
      --out-dir outputs/ffhq256_test
Time of one sample at 20 TFLOP/s: 2.4 s (LAVPS), 4.5 s (MGDM), 0.8 s (DPS); counted, not measured,
see docs/parity.md.
"""

from lavps_jax.config import DPSConfig, InnerConfig, LAVPSConfig, MGDMConfig, SampleConfig
from lavps_jax.data import FolderData
from lavps_jax.operators import MotionBlur


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/ffhq256/prior",
        data=FolderData("data/ffhq256/test", size=256),
        operator=MotionBlur(size=21, intensity=0.9),
        sampler=LAVPSConfig(
            amortized="pretrained/ffhq256/motion_blur",
            inner=InnerConfig(3),
            inner_low_noise=InnerConfig(1),
            high_idx=30,
        ),
        compare_with=(
            MGDMConfig(inner=InnerConfig(3), inner_low_noise=InnerConfig(10)),
            DPSConfig(),
        ),  # fmt: skip
        out_dir="outputs/ffhq256",
        num_images=8,
        num_particles=4,
        batch_size=4,
    )
