"""Posterior samples of degraded ImageNet photographs, 256 x 256: LAVPS next to MGDM and DPS.

Needs the prior and an amortized network: converted from the published release or trained, see
configs/imagenet256_prior.py, _amortized.py and _invfussion.py.

Sampling: python sample.py configs/imagenet256.py
Choosing a budget on 32 validation images (the first of each of the first 32 classes): the loop of
configs/ffhq256.py, with imagenet256 in the place of ffhq256.
Evaluation on 300 test images (the last validation image of each of the first 300 classes):
  python sample.py configs/imagenet256.py --num-images 300 --num-particles 1 \
      --out-dir outputs/imagenet256_test
Other tasks: the words of configs/ffhq256.py.
With the class of every image, which these commands do not tell the prior:
  --class-label data --data.classes FILE, lines of a path below the folder and a number from 0.
Hardware: any accelerator; a batch that does not fit is refused before it runs (--batch-size).
Time of one sample at 20 TFLOP/s: 12 s (LAVPS), 22 s (MGDM), 4 s (DPS);
counted, not measured, see docs/parity.md.
"""

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import FolderData
from lavps_jax.operators import families
from lavps_jax.samplers import DPS, LAVPS, MGDM, Inner


def inner(num_inner_steps: int) -> Inner:
    """With the published learning rate; the grids and block times below are published as well."""
    return Inner(num_inner_steps, learning_rate=0.03, learning_rate_unit="image")


def get_config() -> SampleConfig:
    return SampleConfig(
        prior="pretrained/imagenet256/prior",
        data=FolderData("data/imagenet256/test", size=256),
        operator=families.MotionBlur(size=21, intensity=0.9),
        sampler=LAVPS(
            amortized="pretrained/imagenet256/motion_blur",
            inner=inner(3),
            inner_low_noise=inner(1),
            high_idx=30,
            tau_rule="previous",
        ),
        compare_with=(
            MGDM(inner=inner(3), inner_low_noise=inner(10), high_idx=30, tau_rule="previous"),
            DPS(),
        ),
        out_dir="outputs/imagenet256",
        num_images=8,
        num_particles=4,
        batch_size=4,
    )
