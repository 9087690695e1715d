"""The operators against the published numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import cases

from lavps_jax.likelihoods import log_likelihood, make_problem
from lavps_jax.operators import Blur, CentreBox, Inpainting, SuperResolution, gaussian_kernel


@pytest.fixture(scope="module")
def stored(golden):
    return golden("operators")


def shape_of(image: str) -> tuple[int, int, int]:
    return (64, 64, 3) if image == "b" else (32, 32, 3)


@pytest.mark.parametrize("image", ["a", "b"])
def test_super_resolution(stored, image):
    operator, name = SuperResolution(4, x_shape=shape_of(image)), f"sr4_{image}"
    side = operator.y_shape[0]
    y = jax.vmap(operator.forward)(stored.image(f"img_{image}"))
    stored.close(f"{name}_H", y)
    stored.close(f"{name}_pinv_of_H", jax.vmap(operator.pinv)(y))
    u = stored.measurement(f"{name}_yrand", side, side)
    stored.close(f"{name}_pinv_yrand", jax.vmap(operator.pinv)(u))
    stored.close(f"{name}_Ht_yrand", jax.vmap(operator.adjoint)(u))


def test_super_resolution_adjoint_is_the_derivative(stored):
    operator = SuperResolution(4, x_shape=(64, 64, 3))
    u = stored.measurement("adj_sr4_b_u", 16, 16)
    stored.close("adj_sr4_b_out", jax.vmap(operator.adjoint)(u))


def test_several_leading_axes(stored):
    x = stored.image("x5")
    operator = SuperResolution(4, x_shape=(32, 32, 3))
    stored.close("sr4_x5_H", jax.vmap(jax.vmap(operator.forward))(x))
    y = jnp.asarray(stored["sr4_x5_H"]).reshape(2, 2, 3, 8, 8)
    y = jnp.moveaxis(y, 2, -1)
    stored.close("sr4_x5_pinv", jax.vmap(jax.vmap(operator.pinv))(y))
    masks = jnp.moveaxis(jnp.asarray(stored["box_x5_mask"][:, 0]), 1, -1)
    boxes = jax.vmap(lambda mask: Inpainting(mask, x_shape=(32, 32, 3)))(masks)
    y = jax.vmap(lambda box, x: jax.vmap(box.forward)(x))(boxes, x)
    flat = np.moveaxis(np.asarray(y), -1, -3).reshape(2, 2, -1)
    np.testing.assert_array_equal(flat, stored["box_x5_H"])
    x_pinv = jax.vmap(lambda box, y: jax.vmap(box.pinv)(y))(boxes, y)
    np.testing.assert_array_equal(np.moveaxis(x_pinv, -1, -3), stored["box_x5_pinv"])


@pytest.mark.parametrize("name", cases("operators", "((?:center|box|patch).*_[ab])_H"))
def test_masks(stored, name):
    image = name[-1]
    x, side = stored.image(f"img_{image}"), shape_of(image)[0]
    masks = jnp.moveaxis(jnp.asarray(stored[f"{name}_mask"][:, 0]), 1, -1)
    masks = jnp.broadcast_to(masks, (len(x), side, side, 1))
    operators = jax.vmap(lambda mask: Inpainting(mask, x_shape=shape_of(image)))(masks)
    y = jax.vmap(lambda operator, x: operator.forward(x))(operators, x)
    np.testing.assert_array_equal(y, stored.measurement(f"{name}_H", side, side))
    u = stored.measurement(f"{name}_yrand", side, side)
    x_pinv = jax.vmap(lambda operator, y: operator.pinv(y))(operators, u)
    np.testing.assert_array_equal(x_pinv, stored.image(f"{name}_pinv_yrand"))


@pytest.mark.parametrize(
    ("name", "fraction", "side"),
    [("center2_a", 1 / 2, 32), ("center2_odd", 1 / 2, 33), ("center3_odd", 1 / 3, 33)],
)
def test_centre_box(stored, name, fraction, side):
    operator = CentreBox(fraction).draw(jax.random.key(0), (side, side, 3))
    np.testing.assert_array_equal(operator.mask, stored[f"{name}_mask"].reshape(side, side, 1))


KERNELS = cases("operators", "((?:mb|gauss)_.+)_H_b")


@pytest.mark.parametrize("name", KERNELS)
def test_blur(stored, name):
    kernel = jnp.asarray(stored[f"{name}_kernel"], jnp.float32)
    operator = Blur(kernel, x_shape=(64, 64, 3))
    stored.close(f"{name}_H_b", jax.jit(jax.vmap(operator.forward))(stored.image("img_b")))
    if f"{name}_H_x5" in stored.arrays:
        operator = Blur(kernel, x_shape=(32, 32, 3))
        stored.close(f"{name}_H_x5", jax.vmap(jax.vmap(operator.forward))(stored.image("x5")))


@pytest.mark.parametrize("name", cases("operators", "adj_((?:mb|gauss)_.+)_u"))
def test_blur_adjoint(stored, name):
    """That of the first kernel of this kind and size."""
    kernel = next(one for one in KERNELS if one.startswith(name))
    operator = Blur(jnp.asarray(stored[f"{kernel}_kernel"]), x_shape=(64, 64, 3))
    x = jax.jit(jax.vmap(operator.adjoint))(stored.measurement(f"adj_{name}_u", 64, 64))
    stored.close(f"adj_{name}_out", x)


def test_gaussian_kernel_is_close_to_the_cut_off_one(stored):
    """The published kernel is cut at 4 std; the analytic one differs by less than its tail."""
    kernel = np.asarray(gaussian_kernel(61, 3.0))
    published = stored["gauss_61_3_kernel"]
    assert np.sum(np.abs(kernel - published)) < 5e-4
    assert 0 < kernel[0, 30] < 1e-20 and published[0, 30] == 0


@pytest.mark.parametrize("task", ["sr", "center"])
def test_inverse_problem(stored, task):
    """Measuring, looking at the measurement, and the likelihood of another image."""
    if task == "sr":
        operator = SuperResolution(4, x_shape=(32, 32, 3))
    else:
        operator = CentreBox(1 / 2).draw(jax.random.key(0), (32, 32, 3))
    side = operator.y_shape[0]
    noise = stored.measurement(f"gip_{task}_noise", side, side)
    clean = jax.vmap(operator.forward)(stored.image("img_a"))
    y = clean + 0.05 * noise
    stored.close(f"gip_{task}_y", y)
    seen = jnp.clip(jax.vmap(operator.pinv)(y), -1, 1)
    stored.close(f"gip_{task}_obs_image", seen)
    problems = jax.vmap(lambda y: make_problem(y, operator, 0.05))(y)
    found = jax.vmap(log_likelihood)(problems, stored.image("gip_x_query"))
    hidden = jax.vmap(lambda y: y - operator.project(y))(y)
    # The published likelihood of a mask also counts the noise of the entries that are not there.
    found = found - jnp.sum(hidden**2, axis=(1, 2, 3)) / (2 * 0.05**2)
    stored.close(f"gip_{task}_logpot", found)
