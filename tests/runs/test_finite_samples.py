"""Samples that are not finite are told with the image, the particle and the step."""

from __future__ import annotations

import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.runs.restoring import check_finite
from lavps_jax.samplers.stepwise import Piece

SAMPLES = np.zeros((3, 4, 4, 1, 1))


def test_the_first_step_that_is_not_finite_is_told():
    steps = np.full((3, 4), 8)
    check_finite([Piece(8, steps), Piece(9, SAMPLES)], "dps", "abc")
    steps[1, 2] = 3
    with pytest.raises(UserError, match="dps, b, particle 2, step 3"):
        check_finite([Piece(8, steps), Piece(9, SAMPLES)], "dps", "abc")
    spoilt = SAMPLES.copy()
    spoilt[1, 2, 0] = np.inf
    with pytest.raises(UserError, match="dps, b, particle 2, step 8"):
        check_finite([Piece(8, np.full((3, 4), 8)), Piece(9, spoilt)], "dps", "abc")
