"""Every family obeys the operator laws, in float32 and in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.operator_laws import check_operator
from lavps_jax.operators import (
    CentreBox,
    Denoise,
    GaussianBlur,
    MotionBlur,
    RandomBox,
    RandomPixels,
    SuperResolve,
)

FAMILIES = [
    RandomBox(),
    CentreBox(),
    RandomPixels(),
    SuperResolve(factor=4),
    MotionBlur(size=9, intensity=0.9),
    GaussianBlur(size=21, std=1.5),
    Denoise(),
]
EXACT = [family for family in FAMILIES if not isinstance(family, MotionBlur | GaussianBlur)]


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(family, rng_key, x_shape):
    return family.draw(rng_key, x_shape)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_laws_float32(family):
    operator = draw(family, jax.random.key(3), (32, 32, 1))
    check_operator(jax.random.key(4), operator, rtol=1e-5, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_laws_float64_of_an_image_that_is_not_square(family):
    with jax.enable_x64(True):
        operator = draw(family, jax.random.key(3), (12, 20, 3))
        check_operator(jax.random.key(4), operator, rtol=1e-12, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", EXACT, ids=str)
def test_pinv_is_least_squares_of_smallest_norm_and_ridge_solves_its_equation(family):
    """Both against dense linear algebra, for a y outside the range of A too."""
    with jax.enable_x64(True):
        x_shape = (8, 12, 1)
        operator = draw(family, jax.random.key(0), x_shape)
        basis = jnp.eye(96).reshape(96, *x_shape)
        matrix = np.asarray(jax.jit(jax.vmap(operator.forward))(basis)).reshape(96, -1).T
        y = jax.random.normal(jax.random.key(1), operator.y_shape)
        flat = np.ravel(y)

        expected_pinv = np.linalg.pinv(matrix, rcond=1e-10) @ flat
        np.testing.assert_allclose(np.ravel(operator.pinv(y)), expected_pinv, atol=1e-12)
        expected_adjoint = matrix.T @ flat
        np.testing.assert_allclose(np.ravel(operator.adjoint(y)), expected_adjoint, atol=1e-12)
        weight = 0.3
        expected_ridge = np.linalg.solve(matrix.T @ matrix + weight * np.eye(96), expected_adjoint)
        np.testing.assert_allclose(np.ravel(operator.ridge(y, weight)), expected_ridge, atol=1e-12)
