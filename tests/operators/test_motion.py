"""Motion kernels are thin, connected, centred paths as shaky as asked for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from lavps_jax.errors import UserError
from lavps_jax.operators import motion_kernel
from lavps_jax.operators.motion import LINE_STD

SETTINGS = [(9, 0.9), (21, 0.0), (21, 0.9), (35, 0.3), (35, 1.0)]
NUM_KERNELS = 48


def draw(size, intensity, num_kernels=NUM_KERNELS):
    keys = jax.random.split(jax.random.key(5), num_kernels)
    return np.asarray(draw_stack(keys, size, intensity), np.float64)


@functools.partial(jax.jit, static_argnums=1)
def draw_stack(keys, size, intensity):
    return jax.vmap(lambda key: motion_kernel(key, size, intensity))(keys)


def moments(kernel):
    """Centroid relative to the centre of the canvas, and the two variances along the axes."""
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    points = np.stack(np.meshgrid(offsets, offsets, indexing="ij"), -1).reshape(-1, 2)
    weights = kernel.ravel() / kernel.sum()
    centroid = weights @ points
    deviation = points - centroid
    return centroid, np.linalg.eigvalsh(deviation.T @ (weights[:, None] * deviation))


@pytest.mark.parametrize(("size", "intensity"), SETTINGS)
def test_a_kernel_is_a_centred_distribution(size, intensity):
    for kernel in draw(size, intensity):
        assert kernel.shape == (size, size)
        assert np.min(kernel) >= 0
        assert np.sum(kernel) == pytest.approx(1, abs=1e-5)
        assert np.max(np.abs(moments(kernel)[0])) < 0.15


@pytest.mark.parametrize(("size", "intensity"), SETTINGS)
def test_a_kernel_is_one_line_at_least_a_pixel_wide_that_fills_the_canvas(size, intensity):
    extents = []
    for kernel in draw(size, intensity):
        drawn = kernel > 0.05 * np.max(kernel)
        assert ndimage.label(drawn)[1] == 1  # joined through pixel sides, not only corners
        rows, columns = np.nonzero(drawn)
        extents.append(max(np.ptp(rows), np.ptp(columns)) + 1)
        # Widths below a pixel would leave a variance across the line below 1/12.
        assert moments(kernel)[1][0] > 1 / 12
    assert np.min(extents) >= 0.45 * size
    assert np.max(extents) <= size
    assert np.ptp(extents) >= 0.2 * size  # path lengths vary


def test_intensity_zero_is_a_straight_line_and_more_intensity_bends_it():
    across, along = np.transpose([moments(kernel)[1] for kernel in draw(21, 0.0)])
    np.testing.assert_allclose(across, 0.25, atol=0.05)  # the width of the line alone
    assert np.min(along) > 8

    def mean_roundness(intensity):
        ratios = [values[0] / values[1] for _, values in map(moments, draw(35, intensity))]
        return np.mean(ratios)

    assert 2 * mean_roundness(0.0) < mean_roundness(0.3) < mean_roundness(1.0)


def test_straight_lines_point_everywhere():
    headings = []
    for kernel in draw(21, 0.0):
        offsets = np.arange(21) - 10
        xy = offsets @ kernel @ offsets
        difference = offsets**2 @ kernel.sum(1) - offsets**2 @ kernel.sum(0)
        headings.append(np.arctan2(2 * xy, difference))
    # Doubled angles of lines in uniform directions cancel out.
    assert np.abs(np.mean(np.exp(1j * np.array(headings)))) < 3 / np.sqrt(NUM_KERNELS)


def test_keys_give_different_kernels_and_vmap_is_a_loop():
    keys = jax.random.split(jax.random.key(5), 4)
    together = draw(21, 0.9, num_kernels=4)
    for index, key in enumerate(keys):
        alone = np.asarray(motion_kernel(key, 21, 0.9))
        np.testing.assert_allclose(together[index], alone, atol=1e-6)
        others = np.delete(together, index, axis=0)
        assert np.min(np.sum(np.abs(others - alone), axis=(1, 2))) > 0.1


def test_even_size_is_refused():
    with pytest.raises(UserError, match="odd"):
        motion_kernel(jax.random.key(0), 20, 0.5)


def test_the_extent_of_a_path_scales_it():
    """The mean squared reach of a kernel from its centre, less that of the line's width."""

    place = jnp.arange(31) - 15
    squares = place[:, None] ** 2 + place[None] ** 2

    def reach(extent):
        keys = jax.random.split(jax.random.key(0), 8)
        kernels = jax.vmap(lambda key: motion_kernel(key, 31, 0.5, extent))(keys)
        return jnp.einsum("nij,ij->n", kernels, squares) - 2 * LINE_STD**2

    np.testing.assert_allclose(reach(0.4), 0.4**2 * reach(1.0), rtol=0.02)
