"""One set of defaults, which restores at any number of steps.

Chosen on the first half of the shipped images; these are of the second.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.data import ShippedData, load_batch
from lavps_jax.metrics.images import psnr
from lavps_jax.operators import families
from lavps_jax.problems.problem import residual_chi2, simulate
from lavps_jax.runs.loading import load_prior
from lavps_jax.samplers import MGDM, Inner, sample

IMAGES = [33, 52]


@pytest.fixture(scope="module")
def prior():
    return load_prior("pretrained/fashion_mnist/prior")


WITHOUT_DERIVATIVES = MGDM(
    num_steps=30, grid_power=2.0, zero_shot="gauss_newton", inner=Inner(0), inner_low_noise=Inner(0)
)


@pytest.mark.parametrize(
    "sampler,family,gain",
    # Above A^+ y, in dB. With the published settings samples of few steps stay below y itself.
    [
        (MGDM(num_steps=10), families.MotionBlur(9), 10),
        (MGDM(num_steps=26), families.RandomPixels(), 9),
        (WITHOUT_DERIVATIVES, families.MotionBlur(9), 10),
        (WITHOUT_DERIVATIVES, families.RandomPixels(), 9),
    ],
    ids=["motion blur", "inpainting", "motion blur, K = 0", "inpainting, K = 0"],
)
def test_defaults_restore_at_any_number_of_steps(prior, sampler, family, gain):
    x_0 = jnp.asarray(load_batch(ShippedData().open(), IMAGES))

    def pose(i, image):
        operator = family.draw(jax.random.key(i), image.shape)
        problem = simulate(jax.random.key(100 + i), image, operator, 0.05)
        return jax.random.fold_in(jax.random.key(0), i), problem

    def score(problem, image, x):
        naive = jnp.clip(problem.operator.pinv(problem.y), -1, 1)
        chi2 = residual_chi2(problem, x) / problem.operator.num_observed()
        return psnr(naive, image), psnr(x, image), chi2

    keys, problems = jax.jit(jax.vmap(pose))(jnp.asarray(IMAGES), x_0)
    out = sample(keys, sampler, prior, problems)
    naive, decibels, chi2 = np.mean(jax.jit(jax.vmap(score))(problems, x_0, out.x_0[:, 0]), axis=1)
    assert decibels > naive + gain
    assert 0.8 < chi2 < 1.6
