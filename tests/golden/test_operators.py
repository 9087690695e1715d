"""The operators against the published numbers."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import cases, y_shape_of
from golden_runs import noise_of_hidden_entries

from lavps_jax.operators import Blur, Inpainting, SuperResolution, families, gaussian_kernel
from lavps_jax.problems.problem import Problem, log_likelihood


@pytest.fixture(scope="module")
def stored(golden):
    return golden("operators")


def shape_of(stored, image: str) -> tuple[int, ...]:
    return stored.image(f"img_{image}").shape[1:]


@pytest.mark.parametrize("name", cases("operators", r"(sr\d+_[ab])_H"))
def test_super_resolution(stored, name):
    image = name[-1]
    operator = SuperResolution(ratio_of(name), x_shape=shape_of(stored, image))
    y = jax.vmap(operator.forward)(stored.image(f"img_{image}"))
    stored.close(f"{name}_H", y)
    stored.close(f"{name}_pinv_of_H", jax.vmap(operator.pinv)(y))
    u = stored.measurement(f"{name}_yrand", operator.y_shape)
    stored.close(f"{name}_pinv_yrand", jax.vmap(operator.pinv)(u))
    stored.close(f"{name}_Ht_yrand", jax.vmap(operator.adjoint)(u))


def ratio_of(name: str) -> int:
    """4 of sr4_a."""
    return int(name.partition("_")[0].removeprefix("sr"))


@pytest.mark.parametrize("name", cases("operators", r"adj_(sr\d+_[ab])_u"))
def test_super_resolution_adjoint_is_the_derivative(stored, name):
    operator = SuperResolution(ratio_of(name), x_shape=shape_of(stored, name[-1]))
    u = stored.measurement(f"adj_{name}_u", operator.y_shape)
    stored.close(f"adj_{name}_out", jax.vmap(operator.adjoint)(u))


@pytest.mark.parametrize("name", cases("operators", r"(sr\d+)_x5_H"))
def test_several_leading_axes(stored, name):
    x = stored.image("x5")
    operator = SuperResolution(ratio_of(name), x_shape=x.shape[2:])
    stored.close(f"{name}_x5_H", jax.vmap(jax.vmap(operator.forward))(x))
    height, width, channels = operator.y_shape
    y = jnp.asarray(stored[f"{name}_x5_H"]).reshape(*x.shape[:2], channels, height, width)
    y = jnp.moveaxis(y, 2, -1)
    stored.close(f"{name}_x5_pinv", jax.vmap(jax.vmap(operator.pinv))(y))


@pytest.mark.parametrize("name", cases("operators", "(.+)_x5_mask"))
def test_masks_with_several_leading_axes(stored, name):
    x = stored.image("x5")
    masks = jnp.moveaxis(jnp.asarray(stored[f"{name}_x5_mask"][:, 0]), 1, -1)
    masks = jnp.broadcast_to(masks, (len(x), *masks.shape[1:]))
    boxes = jax.vmap(lambda mask: Inpainting(mask, x_shape=x.shape[2:]))(masks)
    y = jax.vmap(lambda box, x: jax.vmap(box.forward)(x))(boxes, x)
    flat = np.moveaxis(np.asarray(y), -1, -3).reshape(*x.shape[:2], -1)
    np.testing.assert_array_equal(flat, stored[f"{name}_x5_H"])
    x_pinv = jax.vmap(lambda box, y: jax.vmap(box.pinv)(y))(boxes, y)
    np.testing.assert_array_equal(np.moveaxis(x_pinv, -1, -3), stored[f"{name}_x5_pinv"])


@pytest.mark.parametrize("name", cases("operators", "((?:center|box|patch).*_[ab])_H"))
def test_masks(stored, name):
    image = name[-1]
    x = stored.image(f"img_{image}")
    operators = stored.operators(f"{name}_yrand", f"img_{image}", f"{name}_")
    y = jax.vmap(lambda operator, x: operator.forward(x))(operators, x)
    np.testing.assert_array_equal(y, stored.measurement(f"{name}_H", x.shape[1:]))
    u = stored.measurement(f"{name}_yrand", x.shape[1:])
    x_pinv = jax.vmap(lambda operator, y: operator.pinv(y))(operators, u)
    np.testing.assert_array_equal(x_pinv, stored.image(f"{name}_pinv_yrand"))


@pytest.mark.parametrize("name", cases("operators", r"(center\d+_.+)_mask"))
def test_centre_box(stored, name):
    """The number in its name is that of boxes that would fill a side."""
    mask = stored[f"{name}_mask"].squeeze()
    fraction = 1 / int(name.partition("_")[0].removeprefix("center"))
    operator = families.CentreBox(fraction).draw(jax.random.key(0), (*mask.shape, 3))
    np.testing.assert_array_equal(operator.mask, mask[..., None])


KERNELS = cases("operators", "((?:mb|gauss)_.+)_kernel")


@pytest.mark.parametrize("name", KERNELS)
def test_blur(stored, name):
    kernel = jnp.asarray(stored[f"{name}_kernel"], jnp.float32)
    blurred = [one for one in ("a", "b", "x5") if f"{name}_H_{one}" in stored.arrays]
    assert blurred
    for one in blurred:
        x = stored.image(one if one == "x5" else f"img_{one}")
        operator = Blur(kernel, x_shape=x.shape[-3:])
        forward = jax.vmap(operator.forward)
        stored.close(f"{name}_H_{one}", jax.jit(jax.vmap(forward) if x.ndim == 5 else forward)(x))


@pytest.mark.parametrize("name", cases("operators", "adj_((?:mb|gauss)_.+)_u"))
def test_blur_adjoint(stored, name):
    """That of the first kernel of this kind and size."""
    kernel = next(one for one in KERNELS if one.startswith(name))
    x_shape = stored.image(f"adj_{name}_out").shape[1:]
    operator = Blur(jnp.asarray(stored[f"{kernel}_kernel"]), x_shape=x_shape)
    x = jax.jit(jax.vmap(operator.adjoint))(stored.measurement(f"adj_{name}_u", x_shape))
    stored.close(f"adj_{name}_out", x)


@pytest.mark.parametrize("name", cases("operators", "(gauss_.+)_kernel"))
def test_gaussian_kernel_is_close_to_the_cut_off_one(stored, name):
    """The published kernel is cut at 4 std; the analytic one differs by less than its tail."""
    _, size, std = name.split("_")
    kernel = np.asarray(gaussian_kernel(int(size), float(std)))
    published, middle = stored[f"{name}_kernel"], int(size) // 2
    assert np.sum(np.abs(kernel - published)) < 5e-4
    if middle > 4 * float(std) + 0.5:
        tail = math.exp(-((middle / float(std)) ** 2) / 2)
        assert kernel[0, middle] <= tail and published[0, middle] == 0


@pytest.mark.parametrize("task", cases("operators", "gip_(.+)_y"))
def test_inverse_problem(stored, task):
    """Measuring, looking at the measurement, and the likelihood of another image; the operator's
    arrays are those of this task on img_a."""
    data = [key for key in stored.arrays if re.fullmatch(rf"{task}.*_(a_mask|kernel)", key)]
    data = re.sub("(mask|kernel)$", "", data[0]) if data else f"{task}_"
    operators = stored.operators(f"gip_{task}_y", "img_a", data)
    noise = stored.measurement(f"gip_{task}_noise", y_shape_of(operators))
    clean = jax.vmap(lambda operator, x: operator.forward(x))(operators, stored.image("img_a"))
    y = clean + stored.sigma_y * noise
    stored.close(f"gip_{task}_y", y)
    x_pinv = jax.vmap(lambda operator, y: operator.pinv(y))(operators, y)
    if task != "mb":  # The published pseudo-inverse of a blur is the blurred image.
        stored.close(f"gip_{task}_obs_image", jnp.clip(x_pinv, -1, 1))
    problems = jax.vmap(lambda y, one: Problem(y, one, stored.sigma_y))(y, operators)
    found = jax.vmap(log_likelihood)(problems, stored.image("gip_x_query"))
    # The published likelihood of a mask also counts the noise of the entries that are not there.
    stored.close(f"gip_{task}_logpot", found - noise_of_hidden_entries(problems))
