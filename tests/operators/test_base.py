"""Defaults of the base class, on operators made from plain functions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.operators import (
    Inpainting,
    LinearOperator,
    SuperResolution,
    linear_operator,
    nonlinear_operator,
)
from lavps_jax.problems.problem import Problem, residual_chi2, simulate
from lavps_jax.testing import check_operator, operator_findings

X_SHAPE = (4, 5, 3)
SIZE = 60


def project_on_rows(data, x):
    return data["matrix"] @ x.reshape(-1)


def masked_fourier(mask, x):
    return mask[..., None] * jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def scale(gain, x):
    return gain * x


def saturate(gain, x):
    return jnp.tanh(gain * x)


def dense(num_rows, dtype=jnp.float64):
    matrix = jax.random.normal(jax.random.key(0), (num_rows, SIZE), dtype) / SIZE**0.5
    return linear_operator(project_on_rows, X_SHAPE, {"matrix": matrix}), np.asarray(matrix)


class WellSolved(LinearOperator):
    """A wide matrix whose pseudo-inverse is iterated to float64 accuracy."""

    matrix: jax.Array
    pinv_tolerance = 1e-14
    pinv_num_iterations = 500
    ridge_num_iterations = 200

    def forward(self, x):
        return self.matrix @ x.reshape(-1)


def test_operators_of_two_classes_never_share_a_program():
    class Half(LinearOperator):
        def forward(self, x):
            return x / 2

    class Third(LinearOperator):
        def forward(self, x):
            return x / 3

    half, third = Half(x_shape=(2, 2, 1)), Third(x_shape=(2, 2, 1))
    assert jax.tree.structure(half) != jax.tree.structure(third)
    assert jax.tree.structure(half) == jax.tree.structure(Half(x_shape=(2, 2, 1)))
    assert jax.tree.structure(half) != jax.tree.structure(Half(x_shape=(2, 1, 1)))


def test_function_operator_obeys_the_laws():
    operator, _ = dense(20, jnp.float32)
    check_operator(jax.random.key(1), operator, rtol=1e-5, exact_pinv=True)


@pytest.mark.parametrize("num_rows", [20, 90])
def test_pinv_and_ridge_against_dense_linear_algebra(num_rows):
    """20 rows: many images fit, the smallest is returned. 90: none fits, the nearest is."""
    with jax.enable_x64(True):
        _, matrix = dense(num_rows)
        operator = WellSolved(jnp.asarray(matrix), x_shape=X_SHAPE)
        y = jax.random.normal(jax.random.key(1), (num_rows,))
        expected = np.linalg.pinv(matrix) @ np.asarray(y)
        np.testing.assert_allclose(np.ravel(operator.pinv(y)), expected, atol=1e-9)
        weight = 0.2
        expected = np.linalg.solve(
            matrix.T @ matrix + weight * np.eye(SIZE), matrix.T @ np.asarray(y)
        )
        np.testing.assert_allclose(np.ravel(operator.ridge(y, weight)), expected, atol=1e-10)


def test_ridge_with_the_default_number_of_steps():
    operator, matrix = dense(20, jnp.float32)
    y = jax.random.normal(jax.random.key(1), (20,))
    matrix = matrix.astype(np.float64)
    expected = np.linalg.solve(matrix.T @ matrix + 0.01 * np.eye(SIZE), matrix.T @ np.asarray(y))
    np.testing.assert_allclose(np.ravel(operator.ridge(y, 0.01)), expected, atol=1e-4)


def test_ridge_stays_finite_where_conjugate_gradients_end_at_once():
    """Equal singular values: one step is exact and the residual vanishes long before the last."""
    operator = linear_operator(scale, X_SHAPE, jnp.asarray(2.0))
    y = 1e-15 * jax.random.normal(jax.random.key(0), X_SHAPE)
    np.testing.assert_allclose(operator.ridge(y, 0.5), 2 * y / 4.5, rtol=1e-5)
    assert not np.any(operator.ridge(jnp.zeros(X_SHAPE), 0.5))
    assert not np.any(operator.pinv(jnp.zeros(X_SHAPE)))


def test_pinv_and_ridge_do_not_depend_on_the_batch():
    operator, _ = dense(20, jnp.float32)
    y = jax.random.normal(jax.random.key(1), (3, 20))
    y = y * jnp.asarray([1.0, 1e-3, 1e3])[:, None]
    for method in (jax.jit(operator.pinv), jax.jit(lambda y: operator.ridge(y, 0.1))):
        together = jax.vmap(method)(y)
        for index in range(3):
            alone = method(y[index])
            error = jnp.linalg.norm(together[index] - alone) / jnp.linalg.norm(alone)
            assert error < 1e-5


@pytest.mark.parametrize("num_rows", [20, 90])
def test_gradient_through_pinv_is_its_transpose(num_rows):
    """Also where A^T A is singular and the cotangent lies outside the row space."""
    with jax.enable_x64(True):
        _, matrix = dense(num_rows)
        operator = WellSolved(jnp.asarray(matrix), x_shape=X_SHAPE)
        y = jax.random.normal(jax.random.key(1), (num_rows,))
        cotangent = jax.random.normal(jax.random.key(2), X_SHAPE)

        @jax.jit
        def gradients(y, cotangent):
            def projected(y, cotangent):
                return jnp.sum(cotangent * operator.pinv(y))

            return jax.vmap(jax.grad(projected))(y, cotangent)

        value = gradients(jnp.stack([y, 2 * y]), jnp.stack([cotangent, 3 * cotangent]))
        expected = np.linalg.pinv(matrix).T @ np.ravel(cotangent)
        np.testing.assert_allclose(value[0], expected, atol=1e-9)
        np.testing.assert_allclose(value[1], 3 * expected, atol=1e-9)


def test_gradient_through_pinv_of_complex_measurements():
    """<cotangent, A^+ y> as a function of the real and the imaginary part of y."""
    mask = jnp.ones(X_SHAPE[:2])
    operator = linear_operator(masked_fourier, X_SHAPE, mask)
    cotangent = jax.random.normal(jax.random.key(2), X_SHAPE)

    def projected(parts):
        return jnp.sum(cotangent * operator.pinv(parts[0] + 1j * parts[1]))

    parts = jax.random.normal(jax.random.key(3), (2, *X_SHAPE))
    real, imaginary = jax.grad(projected)(parts)
    # All coefficients are seen once: A^T A = I, so the transpose of A^+ is A itself.
    expected = np.fft.fft2(np.asarray(cotangent), axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(real, expected.real, atol=1e-5)
    np.testing.assert_allclose(imaginary, expected.imag, atol=1e-5)


def test_derivatives_in_the_data_of_the_operator():
    """ridge has one; pinv by conjugate gradients says that it has none."""
    operator = linear_operator(scale, X_SHAPE, jnp.asarray(2.0))
    y = jax.random.normal(jax.random.key(0), X_SHAPE)

    def with_gain(gain):
        return dataclasses.replace(operator, data=gain)

    with pytest.raises(ValueError, match="use ridge"):
        jax.grad(lambda gain: jnp.sum(with_gain(gain).pinv(y)))(2.0)
    value = jax.grad(lambda gain: jnp.sum(dataclasses.replace(operator, data=gain).ridge(y, 0.5)))(
        2.0
    )
    # x = gain y / (gain^2 + weight)
    expected = np.sum(np.asarray(y)) * (0.5 - 4) / 4.5**2
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_complex_measurements():
    """Half of the Fourier coefficients of a real image, adjoint = real part of A^H y."""
    with jax.enable_x64(True):
        mask = (jax.random.uniform(jax.random.key(0), X_SHAPE[:2]) < 0.5).astype(jnp.float64)
        operator = linear_operator(masked_fourier, X_SHAPE, mask)
        check_operator(jax.random.key(1), operator, rtol=1e-12)
        y = operator.forward(jax.random.normal(jax.random.key(2), X_SHAPE))
        y = y + 1j * jax.random.normal(jax.random.key(3), X_SHAPE)
        expected = np.fft.ifft2(np.asarray(mask)[..., None] * np.asarray(y), axes=(0, 1)).real
        expected = expected * np.sqrt(X_SHAPE[0] * X_SHAPE[1])  # norm="ortho"
        np.testing.assert_allclose(operator.adjoint(y), expected, atol=1e-13)
        assert operator.num_observed() == 2 * SIZE


def test_y_shape_and_stacking_of_data():
    operator, _ = dense(20, jnp.float32)
    assert operator.y_shape == (20,)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), operator)
    x = jax.random.normal(jax.random.key(1), X_SHAPE)
    y = jax.vmap(lambda one: one.forward(x))(stacked)
    np.testing.assert_allclose(y[1], 2 * operator.forward(x), rtol=1e-5, atol=1e-6)


def test_nonlinear_operator():
    operator = nonlinear_operator(saturate, X_SHAPE, jnp.asarray(1.5))
    assert operator_findings(jax.random.key(0), operator) == []
    assert not isinstance(operator, LinearOperator)
    assert operator.y_shape == X_SHAPE
    x = jax.random.normal(jax.random.key(1), X_SHAPE)
    np.testing.assert_allclose(operator.forward(x), np.tanh(1.5 * np.asarray(x)), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear_operator(saturate, X_SHAPE, jnp.asarray(1.5)), "nonlinear_operator"),
        (
            lambda: linear_operator(project_on_rows, X_SHAPE, {"matrix": jnp.ones((3, 7))}),
            "x_shape",
        ),
        (lambda: linear_operator(lambda _, x: 2 * x + 1, X_SHAPE), r"A\(0\) up to 1; subtract"),
        (lambda: linear_operator(lambda _, x: jnp.exp(x), X_SHAPE), "exp.*use nonlinear_operator"),
        (lambda: nonlinear_operator(lambda _, x: (x, x), X_SHAPE), "one floating point array"),
        (lambda: nonlinear_operator(lambda _, x: x > 0, X_SHAPE), "one floating point array"),
    ],
)
def test_functions_that_cannot_be_used_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("x_shape", [(2, 4, 4, 1), (4, 4), (4, 0, 1), ()])
@pytest.mark.parametrize(
    "build",
    [
        lambda shape: linear_operator(lambda _, x: 2 * x, shape),
        lambda shape: nonlinear_operator(lambda _, x: x**2, shape),
        lambda shape: Inpainting(jnp.ones((4, 4, 1)), x_shape=shape),
        lambda shape: SuperResolution(2, x_shape=shape),
    ],
)
def test_the_shape_is_that_of_one_image(x_shape, build):
    with pytest.raises(
        UserError, match="x_shape: got .*one image; jax.vmap takes a stack"
    ) as caught:
        build(x_shape)
    assert "\n" not in str(caught.value)


def _sampled_lines(data, x):
    return data * jnp.fft.fft2(x[..., 0], norm="ortho")


def test_a_mask_says_what_was_measured():
    lines = np.zeros((8, 8), np.float32)
    lines[:, [0, 1, 5]] = 1
    x_0 = jax.random.uniform(jax.random.key(0), (8, 8, 1), minval=-1)
    operator = linear_operator(_sampled_lines, (8, 8, 1), jnp.asarray(lines), mask=lines)
    check_operator(jax.random.key(1), operator)
    assert float(operator.num_observed()) == 2 * 24
    draws = jax.vmap(lambda key: simulate(key, x_0, operator, 0.1).y)(
        jax.random.split(jax.random.key(2), 400)
    )
    assert not np.any(np.asarray(draws)[:, lines == 0])
    chi2 = jax.vmap(lambda y: residual_chi2(Problem(y, operator, 0.1), x_0))(draws)
    # Mean 48 and standard deviation sqrt(2 * 48): four standard errors of 400 draws.
    assert abs(float(chi2.mean()) - 48) < 4 * (2 * 48) ** 0.5 / 20
    curved = nonlinear_operator(_sampled_lines, (8, 8, 1), jnp.asarray(lines), mask=lines)
    assert float(curved.num_observed()) == 48
    for mask, words in (
        (np.ones((8, 4)), "mask: got shape"),
        (np.full((8, 8), 0.5), "mask: got values from 0.5 to 0.5; give 1"),
        (np.zeros((8, 8)), "mask: got zeros alone"),
    ):
        with pytest.raises(UserError, match=words):
            linear_operator(_sampled_lines, (8, 8, 1), jnp.asarray(lines), mask=mask)
