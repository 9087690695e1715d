"""Masks, colours and frequencies: which of them are seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from PIL import Image

from lavps_jax.errors import UserError
from lavps_jax.operators import CircularBlur, families, gaussian_kernel
from lavps_jax.operators.hadamard import walsh_hadamard

KEY = jax.random.key(0)
X_SHAPE = (12, 20, 3)


@pytest.mark.parametrize("missing,where", [("left", np.s_[:, :10]), ("right", np.s_[:, 10:]),
                                           ("top", np.s_[:6]), ("bottom", np.s_[6:])])  # fmt: skip
def test_half_of_the_image_is_missing(missing, where):
    expected = np.ones((12, 20, 1))
    expected[where] = 0
    np.testing.assert_array_equal(families.HalfImage(missing).draw(KEY, X_SHAPE).mask, expected)


def test_outpainting_sees_what_the_box_hides():
    box, inside = (
        family(0.5).draw(KEY, X_SHAPE).mask for family in (families.CentreBox, families.Outpainting)
    )
    np.testing.assert_array_equal(box + inside, 1)


def test_a_painted_mask(tmp_path):
    painted = np.zeros((12, 20), np.uint8)
    painted[2:5, 3:9] = 255
    path = str(tmp_path / "mask.png")
    Image.fromarray(painted).save(path)
    np.testing.assert_array_equal(
        families.MaskFile(path).draw(KEY, X_SHAPE).mask[..., 0], painted / 255
    )
    with pytest.raises(UserError, match="12x20 pixels; give 8x8"):
        families.MaskFile(path).draw(KEY, (8, 8, 1))
    Image.fromarray(0 * painted).save(path)
    with pytest.raises(UserError, match="without a white pixel"):
        families.MaskFile(path).draw(KEY, X_SHAPE)
    Image.fromarray(0 * painted + 255).save(path)
    with pytest.raises(UserError, match="without a black pixel; .*operator:identity"):
        families.MaskFile(path).draw(KEY, X_SHAPE)
    for family in (families.MaskFile, families.KernelFile):
        with pytest.raises(UserError, match="operator.path: got nothing"):
            family().draw(KEY, X_SHAPE)


@pytest.mark.parametrize("family", [families.MaskFile, families.KernelFile])
def test_a_suspiciously_large_picture_is_refused(tmp_path, monkeypatch, family):
    path = str(tmp_path / "large.png")
    Image.fromarray(np.full((12, 20), 255, np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)
    with pytest.raises(UserError, match="operator.path.*exceeds limit of 18 pixels"):
        family(path).draw(KEY, X_SHAPE)


def test_a_kernel_from_a_picture(tmp_path):
    painted = np.zeros((5, 5), np.uint8)
    painted[1, 2], painted[3, 3] = 60, 180
    path = str(tmp_path / "kernel.png")
    Image.fromarray(painted).save(path)
    np.testing.assert_allclose(
        families.KernelFile(path).draw(KEY, X_SHAPE).kernel, painted[::-1, ::-1] / 240, atol=1e-7
    )
    deep = np.exp(-((np.arange(9) - 4) ** 2) / 4.5)
    deep = deep[:, None] * deep[None]
    Image.fromarray(np.rint(65535 * deep).astype(np.uint16)).save(path)
    np.testing.assert_allclose(
        families.KernelFile(path).draw(KEY, X_SHAPE).kernel, deep / deep.sum(), atol=1e-6
    )
    np.save(tmp_path / "zero.npy", np.zeros((3, 3)))
    with pytest.raises(UserError, match="positive sum"):
        families.KernelFile(str(tmp_path / "zero.npy")).draw(KEY, X_SHAPE)


@pytest.mark.parametrize("border", ["reflect", "circular"])
@pytest.mark.parametrize("shape", [(5, 5), (4, 4), (3, 5), (6, 3), (1, 4)])
def test_the_image_of_a_point_is_the_kernel(tmp_path, shape, border):
    """Of odd and even sides: the point lies at [k // 2, l // 2] of the file."""
    kernel = np.random.default_rng(0).uniform(size=shape)
    np.save(tmp_path / "kernel.npy", kernel)
    operator = families.KernelFile(str(tmp_path / "kernel.npy"), border).draw(KEY, X_SHAPE)
    point = np.zeros(X_SHAPE, np.float32)
    point[6, 9] = 1
    rows, columns = shape
    expected = np.zeros((12, 20))
    top, left = 6 - rows // 2, 9 - columns // 2
    expected[top : top + rows, left : left + columns] = kernel / kernel.sum()
    np.testing.assert_allclose(operator.forward(point)[..., 1], expected, atol=1e-6)


def test_an_anisotropic_kernel_has_its_direction():
    kernel = np.asarray(gaussian_kernel(21, 3.0, 1.0, np.pi / 6), np.float64)
    offsets = np.arange(21) - 10
    rows, columns = np.meshgrid(offsets, offsets, indexing="ij")
    covariance = [[np.sum(kernel * a * b) for a in (columns, rows)] for b in (columns, rows)]
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(np.sqrt(values), [1, 3], rtol=0.02)
    along = vectors[:, 1] * np.sign(vectors[0, 1])
    np.testing.assert_allclose(along, [np.cos(np.pi / 6), np.sin(np.pi / 6)], atol=0.02)
    assert families.AnisotropicBlur(9).draw(KEY, X_SHAPE).kernel.shape == (9, 9)


def test_a_circular_blur_wraps_around():
    kernel = jnp.zeros((3, 3)).at[1, 2].set(1.0)  # y[i, j] = x[i, j + 1]
    blur = CircularBlur(kernel, x_shape=X_SHAPE)
    x = jax.random.normal(KEY, X_SHAPE)
    np.testing.assert_allclose(blur.forward(x), jnp.roll(x, -1, axis=1), atol=1e-5)
    assert blur.spectrum().shape == (12, 11)
    with pytest.raises(UserError, match="kernel size"):
        CircularBlur(jnp.ones((13, 13)), x_shape=X_SHAPE)


def test_bicubic_keeps_straight_lines():
    operator = families.SuperResolutionBicubic(2).draw(KEY, (32, 32, 1))
    ramp = jnp.broadcast_to(jnp.arange(32.0)[None, :, None], (32, 32, 1))
    y = operator.forward(ramp)
    assert y.shape == (16, 16, 1)
    inner = np.s_[4:-4, 4:-4]
    expected = jnp.broadcast_to(2 * jnp.arange(16.0)[None, :, None] + 0.5, (16, 16, 1))
    np.testing.assert_allclose(y[inner], expected[inner], atol=1e-4)
    resized = jax.image.resize(ramp**2 / 100, (16, 16, 1), "cubic")
    np.testing.assert_allclose(operator.forward(ramp**2 / 100), resized, atol=1e-4)


def test_brightness():
    x = jax.random.normal(KEY, X_SHAPE)
    y = families.Colorization("luma").draw(KEY, X_SHAPE).forward(x)
    expected = x @ jnp.asarray([0.299, 0.587, 0.114])
    np.testing.assert_allclose(y[..., 0], expected, atol=1e-5)
    with pytest.raises(UserError, match="channels"):
        families.Colorization().draw(KEY, (8, 8, 1))


def test_hadamard_transform():
    values = jax.random.normal(KEY, (3, 16))
    expected = np.asarray(values) @ scipy.linalg.hadamard(16) / 4
    np.testing.assert_allclose(walsh_hadamard(values), expected, atol=1e-5)


def test_compressed_sensing_mixes_all_pixels():
    operator = families.CompressedSensing(0.25).draw(KEY, (16, 16, 1))
    assert operator.y_shape == (64, 1)
    one = operator.forward(jnp.zeros((16, 16, 1)).at[3, 5].set(1.0))
    np.testing.assert_allclose(jnp.abs(one), 1 / 16, rtol=1e-5)
    assert set(np.unique(np.sign(one))) == {-1.0, 1.0}


@pytest.mark.parametrize("x_shape", [(5, 5, 1), (6, 10, 2), (30, 31, 1)])
def test_compressed_sensing_of_sides_that_are_no_powers_of_two(x_shape):
    operator = families.CompressedSensing(1.0).draw(KEY, x_shape)
    one = operator.forward(jnp.zeros(x_shape).at[3, 2, 0].set(1.0))[:, 0]
    # Its energy is spread: one pixel is nowhere near alone in a coefficient.
    assert np.mean(np.abs(one) > 1e-6) > 0.9
    assert np.abs(one).max() < 2 * (x_shape[0] * x_shape[1]) ** -0.5
    x = jax.random.normal(KEY, x_shape)
    np.testing.assert_allclose(operator.adjoint(operator.forward(x)), x, atol=1e-5)


def test_frequencies_of_the_centre_are_always_seen():
    masks = [
        families.FourierLines(4, 0.1).draw(jax.random.key(k), (8, 40, 1)).mask for k in range(60)
    ]
    columns = np.stack([np.asarray(mask)[0, :, 0] for mask in masks])
    np.testing.assert_array_equal(columns.sum(1), 10)
    assert (columns[:, [0, 1, 2, -1]].all(0) | columns[:, [0, 1, -2, -1]].all(0)).all()
    others = np.delete(columns.mean(0), [0, 1, 2, -1])
    assert 0 < others.min() and others.max() < 0.6
    np.testing.assert_array_equal(masks[0], np.broadcast_to(masks[0][:1], (8, 40, 1)))
