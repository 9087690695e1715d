"""Given measurements are restored as they are, with the operator that made them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lavps_jax.errors import UserError
from lavps_jax.measurements import load_measurements
from lavps_jax.operators import (
    CentreBox,
    Denoise,
    GaussianBlur,
    MotionBlur,
    RandomPixels,
    SuperResolve,
)

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)


def saved(tmp_path, **arrays):
    path = tmp_path / "observations.npz"
    np.savez(path, **arrays)
    return str(path)


def test_measurements_are_taken_as_they_are(tmp_path):
    x_0 = RNG.uniform(-1, 1, Y.shape)
    measured = load_measurements(saved(tmp_path, y=Y, x_0=x_0), Denoise(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, Y)
    np.testing.assert_allclose(measured.x_0, x_0, rtol=1e-6)
    np.testing.assert_allclose(measured.problems.sigma_y, [0.1] * 3, rtol=1e-6)
    assert measured.names == [f"observation-{i:05d}" for i in range(3)]
    assert load_measurements(saved(tmp_path, y=Y), Denoise(), 0.1).x_0 is None


@pytest.mark.parametrize("stacked", [False, True])
def test_the_given_kernel_blurs(tmp_path, stacked):
    kernels = RNG.uniform(size=(3, 5, 5)).astype(np.float32)
    given = kernels if stacked else kernels[0]
    measured = load_measurements(saved(tmp_path, y=Y, kernel=given), MotionBlur(size=3), 0.1)
    np.testing.assert_array_equal(
        measured.problems.operator.kernel, kernels if stacked else [kernels[0]] * 3
    )


def test_the_given_mask_hides(tmp_path):
    mask = RNG.uniform(size=(3, 8, 8, 1)) < 0.5
    measured = load_measurements(saved(tmp_path, y=Y, mask=mask), RandomPixels(), 0.1)
    np.testing.assert_array_equal(measured.problems.y, np.where(mask, Y, 0))
    np.testing.assert_array_equal(measured.problems.operator.mask, mask)


def test_fixed_operators_need_no_arrays(tmp_path):
    path = saved(tmp_path, y=Y)
    assert load_measurements(path, SuperResolve(2), 0.1).image_shape == (16, 16, 1)
    box = load_measurements(path, CentreBox(0.5), 0.1).problems.operator
    assert box.mask.shape == (3, 8, 8, 1) and np.all(np.sum(box.mask, axis=(1, 2, 3)) == 48)
    assert load_measurements(path, GaussianBlur(5, 1.0), 0.1).image_shape == (8, 8, 1)


def test_a_folder_of_images(tmp_path):
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("b", "a"):
        Image.fromarray(pixels if name == "a" else pixels[::-1]).save(tmp_path / f"{name}.png")
    measured = load_measurements(str(tmp_path), Denoise(), 0.1)
    assert measured.names == ["a.png", "b.png"]
    np.testing.assert_allclose(measured.problems.y[0, ..., 0], pixels / 127.5 - 1, atol=1e-6)


HOLE = Y.copy()
HOLE[1, 2, 3, 0] = np.nan


@pytest.mark.parametrize(
    "family,arrays,words",
    [
        (Denoise(), {"y": HOLE}, r"y: got nan at \(1, 2, 3, 0\)"),
        (Denoise(), {"x": Y}, "with \\['x'\\]"),
        (Denoise(), {"y": Y[..., 0]}, "give images"),
        (Denoise(), {"y": (127 * Y).astype(np.uint8)}, "uint8"),
        (Denoise(), {"y": Y, "mask": np.ones((8, 8, 1))}, 'array "mask"; give only y, x_0'),
        (Denoise(), {"y": Y, "x_0": Y[:, :4]}, "x_0: got shape"),
        (MotionBlur(3), {"y": Y}, "no kernel"),
        (MotionBlur(3), {"y": Y, "kernel": np.ones((2, 3, 3))}, "kernel: got shape"),
        (MotionBlur(3), {"y": Y, "kernel": np.ones((4, 4))}, "kernel"),
        (RandomPixels(), {"y": Y, "mask": np.ones((8, 8))}, "mask: got shape"),
        (RandomPixels(), {"y": Y, "mask": np.ones((4, 4, 1))}, "mask: got shape"),
        (RandomPixels(), {"y": Y, "mask": np.full((8, 8, 1), 255)}, "mask: got values from 255"),
        (Denoise(), {"y": Y, "x_0": np.full(Y.shape, 200, np.uint8)}, "x_0: got dtype uint8"),
        (Denoise(), {"y": Y[:0]}, "y of shape"),
        (Denoise(), {"y": 100 * Y}, "units of images"),
        (RandomPixels(), {"y": Y, "mask": np.zeros((8, 8, 1))}, "mask: got values from 0.0 to 0.0"),
        (RandomPixels(), {"y": Y, "mask": np.full((8, 8, 1), "a")}, "mask: got dtype"),
        (
            RandomPixels(),
            {"y": Y, "mask": np.arange(3)[:, None, None, None] * np.ones(Y.shape) > 0},
            "mask: got a measurement without any pixel",
        ),
    ],
)
def test_unusable_measurements_are_refused(tmp_path, family, arrays, words):
    with pytest.raises(UserError, match=words) as caught:
        load_measurements(saved(tmp_path, **arrays), family, 0.1)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_measurements(tmp_path):
    text = tmp_path / "y.npz"
    text.write_text("not an array")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, y=np.array([{"a": 1}], dtype=object))
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = tmp_path / "no_bytes.npz"
    nothing.touch()
    damaged = tmp_path / "damaged.npz"
    np.savez_compressed(damaged, y=Y)
    content = bytearray(damaged.read_bytes())
    content[150:200] = bytes(50)
    damaged.write_bytes(content)
    array = tmp_path / "y.npy"
    np.save(array, Y)
    for path in (text, pickled, array, empty, nothing, damaged, tmp_path / "nothing.npz"):
        with pytest.raises(UserError):
            load_measurements(str(path), Denoise(), 0.1)
