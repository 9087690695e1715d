"""Masks and kernels mean the same in every kind of file."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import save
from PIL import Image

from lavps_jax.data.files import read_kernel, read_mask
from lavps_jax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (6, 9, 3), np.uint16)


SEEN = RNG.uniform(size=(6, 9)) < 0.5


@pytest.mark.parametrize(
    "name,array",
    [
        ("a.png", SEEN),
        ("a.png", 255 * SEEN.astype(np.uint8)),
        ("a.png", SEEN.astype(np.uint8)),
        ("a.png", 65535 * SEEN.astype(np.uint16)),
        ("a.tif", 65535 * SEEN.astype(np.uint16)),
        ("a.tif", SEEN.astype(np.float32)),
        ("a.npy", SEEN),
        ("a.npy", SEEN.astype(np.int64)),
        ("a.npy", SEEN.astype(np.float64)[..., None]),
        ("a.png", np.dstack([255 * SEEN.astype(np.uint8)] * 3)),
        ("a.png", np.dstack([np.full((6, 9, 3), 255, np.uint8), 255 * SEEN.astype(np.uint8)])),
        ("a.npy", np.dstack([np.full((6, 9, 3), 9999, np.uint16) * 6, 65535 * np.uint16(SEEN)])),
    ],
)
def test_masks_of_all_kinds_hide_the_same(tmp_path, name, array):
    np.testing.assert_array_equal(read_mask(save(tmp_path / name, array), "path"), SEEN)


def test_masks_and_kernels_are_turned_as_the_camera_was(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(255 * SEEN.astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", "path"), np.rot90(SEEN, -1))
    expected = np.rot90(SEEN, -1) / SEEN.sum()
    np.testing.assert_allclose(read_kernel(tmp_path / "a.png", "path"), expected, atol=1e-9)


SPOT = RNG.integers(0, 200, (5, 3))


@pytest.mark.parametrize(
    "name,array",
    [
        ("a.png", SPOT.astype(np.uint8)),
        ("a.png", 300 * SPOT.astype(np.uint16)),
        ("a.tif", 300 * SPOT.astype(np.uint16)),
        ("a.tif", (SPOT / 7).astype(np.float32)),
        ("a.npy", SPOT),
        ("a.npy", SPOT[..., None] / 7),
        ("a.png", np.dstack([SPOT.astype(np.uint8)] * 3)),
        ("a.png", np.dstack([SPOT.astype(np.uint8)] * 3 + [np.full((5, 3), 255, np.uint8)])),
    ],
)
def test_kernels_of_all_kinds_are_the_same(tmp_path, name, array):
    found = read_kernel(save(tmp_path / name, array), "path")
    np.testing.assert_allclose(found, SPOT / SPOT.sum(), atol=1e-7)


@pytest.mark.parametrize(
    "array,words",
    [
        (SPOT + 1j, "complex128 numbers; save real numbers"),
        (-SPOT, "the sum -"),
        (0 * SPOT, "the sum 0;"),
        (SPOT * np.nan, "the sum nan"),
        (SPOT[0], "of shape"),
        (np.dstack([SPOT, SPOT]), "transparent"),
    ],
)
def test_what_is_no_kernel_is_refused(tmp_path, array, words):
    with pytest.raises(UserError, match=f"path: got .*a.npy.*{words}") as caught:
        read_kernel(save(tmp_path / "a.npy", array), "path")
    assert "\n" not in str(caught.value)
