"""Every family obeys the operator laws, in float32 and in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operator_cases import COLOUR_ONLY, EXACT, LINEAR, NONLINEAR

from lavps_jax.testing import check_operator


def _real(values) -> np.ndarray:
    values = np.asarray(values)
    if not np.iscomplexobj(values):
        return values
    return np.concatenate([values.real, values.imag], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(family, rng_key, x_shape):
    return family.draw(rng_key, x_shape)


@pytest.mark.parametrize("family", [*LINEAR, *NONLINEAR], ids=str)
def test_laws_float32(family):
    x_shape = (32, 32, 3 if family in COLOUR_ONLY else 1)
    operator = draw(family, jax.random.key(3), x_shape)
    check_operator(jax.random.key(4), operator, rtol=1e-5, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", [*LINEAR, *NONLINEAR], ids=str)
def test_laws_float64_of_an_image_that_is_not_square(family):
    with jax.enable_x64(True):
        operator = draw(family, jax.random.key(3), (48, 80, 3))
        check_operator(jax.random.key(4), operator, rtol=1e-12, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", EXACT, ids=str)
def test_pinv_is_least_squares_of_smallest_norm_and_ridge_solves_its_equation(family):
    """Both against dense linear algebra, for a y outside the range of A too."""
    with jax.enable_x64(True):
        x_shape = (8, 12, 3 if family in COLOUR_ONLY else 1)
        size = math.prod(x_shape)
        operator = draw(family, jax.random.key(0), x_shape)
        columns = jax.jit(jax.vmap(operator.forward))(jnp.eye(size).reshape(size, *x_shape))
        y = jax.random.normal(jax.random.key(1), operator.y_shape, columns.dtype)
        # A complex measurement of a real image: real and imaginary parts are separate rows.
        matrix, flat = _real(columns.reshape(size, -1)).T, _real(np.ravel(y))

        expected_pinv = np.linalg.pinv(matrix, rcond=1e-9) @ flat
        np.testing.assert_allclose(np.ravel(operator.pinv(y)), expected_pinv, atol=1e-12)
        expected_adjoint = matrix.T @ flat
        np.testing.assert_allclose(np.ravel(operator.adjoint(y)), expected_adjoint, atol=1e-12)
        weight = 0.3
        expected_ridge = np.linalg.solve(
            matrix.T @ matrix + weight * np.eye(size), expected_adjoint
        )
        np.testing.assert_allclose(np.ravel(operator.ridge(y, weight)), expected_ridge, atol=1e-12)
