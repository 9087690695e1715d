"""Blur: borders, orientation, channels, inverses, and the Gaussian kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.errors import UserError
from lavps_jax.operators import Blur, CircularBlur, gaussian_kernel, motion_kernel
from lavps_jax.problems.problem import simulate


@pytest.mark.parametrize(
    ("x_shape", "size"), [((12, 20, 3), 1), ((12, 20, 3), 5), ((12, 20, 3), 23), ((9, 7, 2), 13)]
)
def test_matches_scipy_with_mirrored_borders(x_shape, size):
    with jax.enable_x64(True):
        # Not symmetric and not of sum 1: a flipped, transposed or normalised kernel shows.
        kernel = jax.random.normal(jax.random.key(0), (size, size))
        x = jax.random.normal(jax.random.key(1), x_shape)
        y = jax.jit(Blur(kernel, x_shape=x_shape).forward)(x)
        for channel in range(x_shape[-1]):
            expected = ndimage.correlate(
                np.asarray(x[..., channel]), np.asarray(kernel), mode="mirror"
            )
            np.testing.assert_allclose(y[..., channel], expected, atol=1e-11)


def test_constant_image_stays_constant_up_to_the_border():
    operator = Blur(gaussian_kernel(9, 2.0), x_shape=(16, 16, 1))
    y = operator.forward(jnp.full((16, 16, 1), 0.7))
    np.testing.assert_allclose(y, 0.7, rtol=1e-5)


def test_ridge_solves_its_equation_and_pinv_reproduces_the_measurement():
    with jax.enable_x64(True):
        x_shape = (12, 20, 3)
        operator = Blur(gaussian_kernel(9, 1.0), x_shape=x_shape)
        forward, adjoint = jax.jit(operator.forward), jax.jit(operator.adjoint)
        y = forward(jax.random.normal(jax.random.key(0), x_shape))
        weight = 0.05
        x = operator.ridge(y, weight)
        right = adjoint(y)
        left = adjoint(forward(x)) + weight * x
        assert jnp.linalg.norm(left - right) < 1e-6 * jnp.linalg.norm(right)
        residual = forward(operator.pinv(y)) - y
        assert jnp.linalg.norm(residual) < 5e-3 * jnp.linalg.norm(y)


def test_stacked_kernels_under_vmap_and_scan():
    """One kernel per image, inside a scan as in a sampler, equals one call each."""
    x_shape = (12, 20, 3)
    kernels = jax.random.uniform(jax.random.key(0), (3, 5, 5))
    x = jax.random.normal(jax.random.key(1), (3, *x_shape))
    operators = Blur(kernels, x_shape=x_shape)

    @jax.jit
    def run(operators, x):
        def step(x, _):
            y = jax.vmap(lambda operator, x: operator.forward(x))(operators, x)
            return x, y

        return jax.lax.scan(step, x, None, length=2)[1]

    y = run(operators, x)[1]
    for image in range(3):
        expected = Blur(kernels[image], x_shape=x_shape).forward(x[image])
        np.testing.assert_allclose(y[image], expected, atol=1e-4)


@pytest.mark.parametrize("size", [4, 25])
def test_even_and_too_wide_kernels_are_refused(size):
    with pytest.raises(UserError, match="kernel size"):
        Blur(jnp.ones((size, size)), x_shape=(12, 20, 3))


def test_a_kernel_that_is_not_square_is_refused():
    with pytest.raises(UserError, match="square"):
        Blur(jnp.ones((3, 5)), x_shape=(12, 20, 3))


@pytest.mark.parametrize("kind", [Blur, CircularBlur])
def test_a_complex_kernel_is_refused(kind):
    with pytest.raises(UserError, match="kernel: got dtype complex64; give real numbers"):
        kind(1j * jnp.ones((3, 3)), x_shape=(12, 20, 3))


def test_gaussian_kernel_moments():
    kernel = np.asarray(gaussian_kernel(31, 2.5), np.float64)
    offsets = np.arange(31) - 15
    assert kernel.sum() == pytest.approx(1, rel=1e-5)
    assert kernel.sum(1) @ offsets**2 == pytest.approx(2.5**2, rel=1e-4)
    assert kernel.sum(0) @ offsets**2 == pytest.approx(2.5**2, rel=1e-4)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], rtol=1e-6)
    assert kernel[15, 18] / kernel[15, 15] == pytest.approx(np.exp(-(3**2) / (2 * 2.5**2)), 1e-4)


@pytest.mark.parametrize(("size", "std"), [(4, 1.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_gaussian_kernel_refuses_bad_settings(size, std):
    with pytest.raises(UserError):
        gaussian_kernel(size, std)


KERNELS = {
    "gaussian": gaussian_kernel(9, 1.5),
    "oblique": gaussian_kernel(9, 3.0, 0.8, 0.6),
    "motion": motion_kernel(jax.random.key(0), 9, 0.9),
}


@jax.jit
def ridge(operator, y, weight):
    return operator.ridge(y, weight)


@jax.jit
def ridge_of_each(operator, ys, weights):
    return jax.vmap(operator.ridge)(ys, weights)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("noise", [0.05, 1e-3])
def test_ridge_of_a_mirrored_blur_at_any_weight_against_a_dense_solution(name, noise):
    """Fifty steps without a preconditioner are wrong by 6e-3, 40 % and 100 %."""
    side, rng = 24, np.random.default_rng(0)
    operator = Blur(KERNELS[name], x_shape=(side, side, 1))
    unit = np.eye(side**2).reshape(-1, side, side)
    kernel = np.asarray(KERNELS[name], np.float64)
    # scipy's "mirror" does not repeat the edge pixel.
    a = np.stack([ndimage.correlate(one, kernel, mode="mirror").ravel() for one in unit], 1)
    x_0 = ndimage.gaussian_filter(rng.standard_normal((side, side)), 2).ravel()
    y = (a @ x_0 / np.abs(x_0).max() + noise * rng.standard_normal(side**2)).astype(np.float32)
    for weight, allowed in (
        (0.0025, 1e-4),
        (1e-4, 1e-3),
        (1e-7, 0.1 if name == "motion" else 0.01),
    ):
        exact = np.linalg.solve(a.T @ a + weight * np.eye(side**2), a.T @ y.astype(np.float64))
        found = np.asarray(ridge(operator, y.reshape(side, side, 1), weight)).ravel()
        error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
        assert error < allowed, (weight, error)
    # An image does not notice which others are solved with it.
    images = [0 * y, y, 100 * x_0]
    batch = jnp.stack([jnp.asarray(one).reshape(side, side, 1) for one in images])
    weights = jnp.asarray([1.0, 1e-4, 0.1])
    together = ridge_of_each(operator, batch, weights)
    np.testing.assert_array_equal(together[0], 0)
    alone = ridge_of_each(operator, batch[1:2], weights[1:2])
    np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("sigma_y", [0.0, 1e-6, 1e-5, 1e-4])
def test_no_noise_is_no_reason_for_huge_images(sigma_y):
    """A box of 9 does not see some directions at all; what rounding leaves there is not divided by
    the smallest of weights."""
    x = jax.random.uniform(jax.random.key(0), (32, 32, 1), minval=-1.0)
    for kernel in (jnp.ones((9, 9)) / 81, jnp.array([[0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]])):
        problem = simulate(jax.random.key(1), x, Blur(kernel, x_shape=x.shape), sigma_y)
        assert np.linalg.norm(jax.jit(estimate)(problem)) < 3 * np.linalg.norm(x)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_measurements_of_half_precision_have_an_inverse(dtype):
    y = jax.random.normal(jax.random.key(0), (8, 8, 1)).astype(dtype)
    operator = Blur(gaussian_kernel(3, 1.0), x_shape=y.shape)
    exact = operator.ridge(y.astype(jnp.float32), jnp.float32(0.01))
    found = operator.ridge(y, jnp.float32(0.01))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.02 * np.abs(exact).max())
    with jax.enable_x64(True):
        wide = Blur(jnp.asarray(gaussian_kernel(3, 1.0), jnp.float64), x_shape=y.shape)
        assert wide.ridge(y.astype(jnp.float32), 0.01).dtype == jnp.float64
