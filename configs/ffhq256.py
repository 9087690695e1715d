"""Posterior samples of degraded FFHQ photographs, 256 x 256: LAVPS next to MGDM and DPS.

Needs the prior and an amortized network: converted from the published release or trained, see
configs/ffhq256_prior.py, configs/ffhq256_amortized.py and configs/ffhq256_invfussion.py.

Sampling: python sample.py configs/ffhq256.py
Choosing a budget on the 32 validation images (FFHQ's 61000 to 61031), one sample each; the
published grid of LAVPS and, behind sampler:mgdm with --sampler.tau-rule previous and
--sampler.inner.learning-rate-unit and --sampler.inner-low-noise.learning-rate-unit image, of MGDM:
  for index in 10 20 30; do for low in 0 1 3 10; do for k in 1 3; do for rate in 0.01 0.03; do
    python sample.py configs/ffhq256.py --no-compare --data.path data/ffhq256/validation \
        --num-images 32 --num-particles 1 --sampler.high-idx $index \
        --sampler.inner.num-inner-steps $k --sampler.inner.learning-rate $rate \
        --sampler.inner-low-noise.num-inner-steps $low \
        --sampler.inner-low-noise.learning-rate $rate \
        --out-dir outputs/ffhq256_sweep/$index-$low-$k-$rate; done; done; done; done
  Keep what no other setting beats in both seconds_per_image and lpips_alex of metrics.json.
Evaluation on the 300 test images (61032 to 61331):
  python sample.py configs/ffhq256.py --num-images 300 --num-particles 1 \
      --out-dir outputs/ffhq256_test
Other tasks, with the network of another one (starts are then compared) or their own
(--sampler.amortized FOLDER), and --no-stochastic for one operator for all images:
  operator:motion-blur --operator.size 35 --operator.intensity 0.3
  operator:gaussian-blur --operator.size 61 --operator.std 3
  operator:super-resolution --operator.factor 4     (also 8 and 16)
  operator:centre-box, operator:random-box
  operator:random-pixels --operator.min-observed 0.15 --operator.max-observed 0.2   (also .08, .1)
Hardware: any accelerator; a batch that does not fit is refused before it runs (--batch-size).
Time of one sample on an H100 GPU: 1.2 s (LAVPS), 2.2 s (MGDM), 0.4 s (DPS), see docs/parity.md.
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
        prior="pretrained/ffhq256/prior",
        data=FolderData("data/ffhq256/test", size=256),
        operator=families.MotionBlur(size=21, intensity=0.9),
        sampler=LAVPS(
            amortized="pretrained/ffhq256/motion_blur",
            inner=inner(3),
            inner_low_noise=inner(1),
            high_idx=30,
            tau_rule="previous",
        ),
        compare_with=(
            MGDM(inner=inner(3), inner_low_noise=inner(10), high_idx=30, tau_rule="previous"),
            DPS(),
        ),
        out_dir="outputs/ffhq256",
        num_images=8,
        num_particles=4,
        batch_size=4,
    )
