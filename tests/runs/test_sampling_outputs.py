"""Pictures of a sampling run show what was measured, or an image made of it."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.operators import FourierSampling, Identity
from lavps_jax.problems import Problem
from lavps_jax.runs.measurements import Measured
from lavps_jax.runs.pictures import save_png
from lavps_jax.runs.sampling_outputs import _observation

SHAPE = (4, 6, 1)
IMAGE = np.random.default_rng(0).uniform(-1, 1, SHAPE).astype(np.float32)


def measured(operator) -> Measured:
    y = operator.forward(jnp.asarray(IMAGE))
    problem = Problem(y, operator, 0.1)
    return Measured(
        jax.tree.map(lambda leaf: leaf[None], problem), np.arange(1), ["a"], None, [None]
    )


def test_an_image_is_shown_as_it_was_measured():
    np.testing.assert_array_equal(_observation(measured(Identity(x_shape=SHAPE)), 0), IMAGE)


def test_complex_measurements_are_shown_as_an_image(tmp_path):
    lines = FourierSampling(jnp.ones((*SHAPE[:2], 1)), x_shape=SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = _observation(measured(lines), 0)
        save_png(tmp_path / "a.png", picture)
    # The posterior mean of pixels with variance .25 and this noise.
    np.testing.assert_allclose(picture, IMAGE / (1 + 4 * 0.1**2), atol=1e-5)
    with pytest.raises(ValueError, match="complex"):
        save_png(tmp_path / "b.png", picture + 0j)
