"""The operators against numbers from the published implementation (tests/data)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lavps_jax.operators import Blur, CentreBox, Inpainting, SuperResolution, gaussian_kernel

X_SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def golden():
    path = Path(__file__).parents[1] / "data" / "operators_golden.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def images(flat, x_shape=X_SHAPE):
    """Channel, row, column, flat or not, to images (B, H, W, C)."""
    height, width, channels = x_shape
    return np.moveaxis(flat.reshape(-1, channels, height, width), 1, -1)


def close(golden, name, value, expected):
    largest = np.max(np.abs(value - expected))
    assert largest <= 10 * golden[f"tolerance/{name}"], (name, largest)


def test_super_resolution(golden):
    operator = SuperResolution(4, x_shape=X_SHAPE)
    x = images(golden["img_a"])
    y = jax.vmap(operator.forward)(jnp.asarray(x))
    close(golden, "sr4_a_H", y, images(golden["sr4_a_H"], (8, 8, 3)))
    close(golden, "sr4_a_pinv_of_H", jax.vmap(operator.pinv)(y), images(golden["sr4_a_pinv_of_H"]))
    u = jnp.asarray(images(golden["sr4_a_yrand"], (8, 8, 3)))
    for name, method in (("sr4_a_pinv_yrand", operator.pinv), ("sr4_a_Ht_yrand", operator.adjoint)):
        close(golden, name, jax.vmap(method)(u), images(golden[name]))


def test_masks(golden):
    x = images(golden["img_a"])
    box_masks = images(golden["boxper_a_mask"], (32, 32, 1))
    pixel_mask = images(golden["patch_a_mask"], (32, 32, 1))
    y_random = images(golden["boxper_a_yrand"])
    for image in range(2):
        box = Inpainting(jnp.asarray(box_masks[image]), x_shape=X_SHAPE)
        np.testing.assert_array_equal(box.forward(x[image]), images(golden["boxper_a_H"])[image])
        np.testing.assert_array_equal(
            box.pinv(y_random[image]), images(golden["boxper_a_pinv_yrand"])[image]
        )
        pixels = Inpainting(jnp.asarray(pixel_mask[0]), x_shape=X_SHAPE)
        np.testing.assert_array_equal(pixels.forward(x[image]), images(golden["patch_a_H"])[image])


@pytest.mark.parametrize(
    ("name", "fraction", "side"),
    [("center2_a", 1 / 2, 32), ("center2_odd", 1 / 2, 33), ("center3_odd", 1 / 3, 33)],
)
def test_centre_box(golden, name, fraction, side):
    operator = CentreBox(fraction).draw(jax.random.key(0), (side, side, 3))
    np.testing.assert_array_equal(operator.mask, golden[f"{name}_mask"].reshape(side, side, 1))


@pytest.mark.parametrize(
    "name", ["mb_21_0.9_0", "mb_21_0.9_7", "mb_35_0.3_5", "mb_61_0.5_12", "gauss_61_3"]
)
def test_blur(golden, name):
    operator = Blur(jnp.asarray(golden[f"{name}_kernel"]), x_shape=(64, 64, 1))
    y = jax.jit(operator.forward)(golden["img_b_channel0"][..., None])
    key = f"{name}_H_b_channel0"
    close(golden, key, y[..., 0], golden[key])


@pytest.mark.parametrize(
    ("name", "kernel"), [("adj_mb_21", "mb_21_0.9_0"), ("adj_gauss_61", "gauss_61_3")]
)
def test_blur_adjoint(golden, name, kernel):
    operator = Blur(jnp.asarray(golden[f"{kernel}_kernel"]), x_shape=(64, 64, 1))
    x = jax.jit(operator.adjoint)(golden[f"{name}_u_channel0"][..., None])
    key = f"{name}_out_channel0"
    close(golden, key, x[..., 0], golden[key])


def test_gaussian_kernel_is_close_to_the_cut_off_one(golden):
    """The published kernel is cut at 4 std; the analytic one differs by less than its tail."""
    kernel = np.asarray(gaussian_kernel(61, 3.0))
    published = golden["gauss_61_3_kernel"]
    assert np.sum(np.abs(kernel - published)) < 5e-4
    assert 0 < kernel[0, 30] < 1e-20 and published[0, 30] == 0
