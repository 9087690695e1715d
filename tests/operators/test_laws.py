"""Every family obeys the operator laws, in float32 and in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operator_cases import COLOUR_ONLY, EXACT, LINEAR, NONLINEAR

from lavps_jax.errors import UserError
from lavps_jax.operators import cropped, from_matrix
from lavps_jax.testing import check_operator


def _real(values) -> np.ndarray:
    values = np.asarray(values)
    if not np.iscomplexobj(values):
        return values
    return np.concatenate([values.real, values.imag], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 2))
def draw(family, rng_key, x_shape):
    return family.draw(rng_key, x_shape)


@pytest.mark.parametrize("family", LINEAR, ids=str)
def test_laws_float32(family):
    x_shape = (32, 32, 3 if family in COLOUR_ONLY else 1)
    operator = draw(family, jax.random.key(3), x_shape)
    check_operator(jax.random.key(4), operator, rtol=1e-5, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", LINEAR, ids=str)
def test_laws_float64_of_an_image_that_is_not_square(family):
    with jax.enable_x64(True):
        operator = draw(family, jax.random.key(3), (32, 48, 3))
        check_operator(jax.random.key(4), operator, rtol=1e-12, exact_pinv=family in EXACT)


@pytest.mark.parametrize("family", NONLINEAR, ids=str)
def test_laws_of_what_is_not_linear(family):
    """In float32, in which a gradient may have no digits left; images of float64 stay so."""
    operator = draw(family, jax.random.key(3), (32, 48, 3))
    check_operator(jax.random.key(4), operator, rtol=1e-5)
    with jax.enable_x64(True):
        image = jax.ShapeDtypeStruct((32, 32, 1), jnp.float64)
        y = jax.eval_shape(
            lambda key, x: family.draw(key, x.shape).forward(x), jax.random.key(3), image
        )
        assert y.dtype in (jnp.float64, jnp.complex128)


@jax.jit
def measured(operator, images):
    return jax.vmap(operator.forward)(images)


def dense(operator) -> tuple[np.ndarray, jax.Array, np.ndarray]:
    """The matrix of an operator, a random y, and that y as its rows see it."""
    size = math.prod(operator.x_shape)
    columns = np.asarray(measured(operator, np.eye(size).reshape(size, *operator.x_shape)))
    y = jax.random.normal(jax.random.key(1), operator.y_shape, columns.dtype)
    # A complex measurement of a real image: real and imaginary parts are separate rows.
    return _real(columns.reshape(size, -1)).T, y, _real(np.ravel(y))


@jax.jit
def inverses(operator, y, weight):
    return operator.pinv(y), operator.adjoint(y), operator.ridge(y, weight)


@pytest.mark.parametrize("family", EXACT, ids=str)
def test_pinv_is_least_squares_of_smallest_norm_and_ridge_solves_its_equation(family):
    """Both against dense linear algebra, for a y outside the range of A too."""
    with jax.enable_x64(True):
        x_shape = (8, 12, 3 if family in COLOUR_ONLY else 1)
        size = math.prod(x_shape)
        operator = draw(family, jax.random.key(0), x_shape)
        matrix, y, flat = dense(operator)

        weight = 0.3
        pinv, adjoint, ridge = map(np.ravel, inverses(operator, y, weight))
        expected_pinv = np.linalg.pinv(matrix, rcond=1e-9) @ flat
        np.testing.assert_allclose(pinv, expected_pinv, atol=1e-12)
        expected_adjoint = matrix.T @ flat
        np.testing.assert_allclose(adjoint, expected_adjoint, atol=1e-12)
        expected_ridge = np.linalg.solve(
            matrix.T @ matrix + weight * np.eye(size), expected_adjoint
        )
        np.testing.assert_allclose(ridge, expected_ridge, atol=1e-12)


def bent(s, xp=jnp):
    """A function of singular values that is not zero at 0."""
    return 1 / (0.2 + s**2) + xp.cos(3 * s)


@jax.jit
def filtered(operator, x, y):
    return operator.spectral(bent, x), operator.spectral_adjoint(lambda s: bent(s) / s, y)


def check_spectral(operator) -> None:
    """Both filters against a dense singular value decomposition."""
    matrix, y, flat = dense(operator)
    u, values, vt = np.linalg.svd(matrix)
    values = np.pad(values, (0, len(vt) - len(values)))
    values = np.where(values > 1e-9 * values[0], values, 0)
    x = jax.random.normal(jax.random.key(2), operator.x_shape)
    of_image, of_measurement = map(np.ravel, filtered(operator, x, y))
    expected = vt.T @ (bent(values, np) * (vt @ np.ravel(x)))
    np.testing.assert_allclose(of_image, expected, atol=1e-11)
    seen = np.flatnonzero(values)
    expected = vt[seen].T @ (bent(values[seen], np) / values[seen] * (u.T[seen] @ flat))
    np.testing.assert_allclose(of_measurement, expected, atol=1e-11)


@pytest.mark.parametrize("family", EXACT, ids=str)
def test_filters_of_the_singular_values(family):
    with jax.enable_x64(True):
        x_shape = (8, 12, 3 if family in COLOUR_ONLY else 1)
        check_spectral(draw(family, jax.random.key(0), x_shape))


@pytest.mark.parametrize("rows", [3, 20])
def test_a_matrix(rows):
    with jax.enable_x64(True):
        matrix = np.random.default_rng(0).standard_normal((rows, 12))
        matrix[:, :3] = 0  # Three directions that are not seen in any case.
        operator = from_matrix(matrix, (2, 3, 2))
        np.testing.assert_allclose(dense(operator)[0], matrix, atol=1e-12)
        check_operator(jax.random.key(0), operator, rtol=1e-12, exact_pinv=True)
        check_spectral(operator)
        check_spectral(cropped(operator, (4, 5, 2), (1, 2)))
    with pytest.raises(UserError, match="matrix: got shape .*; give 12 columns"):
        from_matrix(matrix[:, 1:], (2, 3, 2))


@pytest.mark.parametrize("family", [f for f in LINEAR if f not in EXACT], ids=str)
def test_an_operator_without_known_singular_values_says_so(family):
    x_shape = (16, 16, 3 if family in COLOUR_ONLY else 1)
    operator = draw(family, jax.random.key(0), x_shape)
    with pytest.raises(
        UserError, match="operator: got .*; give one whose singular values are known"
    ):
        jax.eval_shape(lambda x: operator.spectral(jnp.cos, x), jnp.zeros(x_shape))
