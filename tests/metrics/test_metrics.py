"""Metrics: published numbers, closed forms and independent float64 NumPy."""

import functools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from lavps_jax.errors import UserError
from lavps_jax.metrics.images import (
    chi2_band,
    crps,
    interval_coverage,
    psnr,
    sliced_wasserstein,
    ssim,
)


def ssim_numpy(x, reference):
    """Wang et al. with zero padding, float64; moments are centred, unlike in the library."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    x, reference = (np.pad((z.astype(np.float64) + 1) / 2, 5) for z in (x, reference))
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a = x[row : row + 11, column : column + 11]
            b = reference[row : row + 11, column : column + 11]
            weight = np.outer(window, window)
            mean_a, mean_b = np.sum(weight * a), np.sum(weight * b)
            var_a = np.sum(weight * (a - mean_a) ** 2)
            var_b = np.sum(weight * (b - mean_b) ** 2)
            cov = np.sum(weight * (a - mean_a) * (b - mean_b))
            values.append(
                (2 * mean_a * mean_b + 0.01**2)
                * (2 * cov + 0.03**2)
                / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
            )
    return np.mean(values)


@pytest.mark.parametrize("shape", [(28, 28), (32, 17), (7, 5), (1, 1)])
def test_ssim_of_any_size_against_numpy(shape):
    generator = np.random.default_rng(0)
    reference = ndimage.gaussian_filter(generator.standard_normal((*shape, 2)), (2, 2, 0))
    reference /= np.abs(reference).max()
    x = np.clip(reference + 0.3 * generator.standard_normal(reference.shape), -1, 1)
    x, reference = x.astype(np.float32), reference.astype(np.float32)
    expected = np.mean([ssim_numpy(x[..., c], reference[..., c]) for c in range(2)])
    assert float(ssim(jnp.asarray(x), jnp.asarray(reference))) == pytest.approx(expected, abs=2e-6)


def test_ssim_of_equal_and_inverted_images(golden):
    x = golden("metrics").image("b_ref")[0]
    assert float(ssim(x, x)) == pytest.approx(1.0, abs=1e-6)
    assert float(ssim(x, -x)) < 0.1


def test_ssim_counts_borders(golden):
    """A change in the border alone is seen, as in the published protocol."""
    reference = golden("metrics").image("b_ref")[0]
    x = reference.at[0].set(-reference[0])
    interior = dm_pix.ssim((x + 1) / 2, (reference + 1) / 2)
    assert float(ssim(x, reference)) < float(interior) - 0.005


@pytest.mark.parametrize("offset", [0.02, 0.5, 2.0])
def test_psnr_of_an_offset(offset):
    reference = jnp.full((9, 4, 3), -1.0)
    value = float(psnr(reference + offset, reference))
    assert value == pytest.approx(-20 * np.log10(offset / 2), abs=1e-4)


def test_psnr_of_equal_images_is_infinite():
    x = jnp.linspace(-1, 1, 27).reshape(3, 3, 3)
    assert float(psnr(x, x)) == float("inf")


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_images_must_have_one_shape(metric):
    with pytest.raises(UserError, match="shape"):
        metric(jnp.zeros((8, 8, 3)), jnp.zeros((8, 8, 1)))


@pytest.mark.parametrize("num_observed", [1, 12, 3072, 196608])
@pytest.mark.parametrize("level", [0.5, 0.99])
def test_chi2_band_is_exact(num_observed, level):
    tails = [(1 - level) / 2, (1 + level) / 2]
    expected = stats.chi2.ppf(tails, num_observed)
    np.testing.assert_allclose(chi2_band(num_observed, level), expected, rtol=1e-9)


@pytest.mark.parametrize(("num_observed", "level"), [(0, 0.9), (5, 0.0), (5, 1.0)])
def test_chi2_band_refuses(num_observed, level):
    with pytest.raises(UserError):
        chi2_band(num_observed, level)


@pytest.mark.parametrize(("n_a", "n_b"), [(6, 6), (4, 6), (1, 7), (5, 3)])
def test_sliced_wasserstein_in_one_dimension(n_a, n_b):
    """One dimension has one direction; repeating every sample makes the numbers equal."""
    generator = np.random.default_rng(n_a)
    a, b = generator.standard_normal((n_a, 1)), 2 + generator.standard_normal((n_b, 1))
    long_a, long_b = np.repeat(np.sort(a[:, 0]), n_b), np.repeat(np.sort(b[:, 0]), n_a)
    expected = np.sqrt(np.mean((long_a - long_b) ** 2))
    assert sliced_wasserstein(3, a, b, num_slices=2) == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_of_a_shift():
    """All samples move by s: the distance is the root mean square of u . s, ||s|| / sqrt(d)."""
    generator = np.random.default_rng(0)
    a = generator.standard_normal((50, 8))
    shift = 3 * generator.standard_normal(8)
    value = sliced_wasserstein(1, a, a[::-1] + shift, num_slices=4000)
    assert value == pytest.approx(np.linalg.norm(shift) / np.sqrt(8), rel=0.03)


def test_sliced_wasserstein_is_of_order_two_within_and_across_slices():
    """N(0, 1) and N(0, 4) in d dimensions: W_2 is 1 in every direction (W_1 would be 0.8)."""
    quantiles = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)[:, None]
    assert sliced_wasserstein(0, quantiles, 2 * quantiles, 1) == pytest.approx(1.0, rel=1e-3)
    # Two points on the axes: W_2^2 is u_1^2, its mean 1 / 2; the mean of |u_1| would be 2 / pi.
    value = sliced_wasserstein(0, np.zeros((1, 2)), np.asarray([[1.0, 0.0]]), 20000)
    assert value == pytest.approx(np.sqrt(0.5), rel=0.01)


def test_sliced_wasserstein_of_order_one():
    """The mean over the same directions of SciPy's W_1."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((30, 3)), 1 + generator.standard_normal((20, 3))
    directions = np.random.default_rng(7).standard_normal((5, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    expected = np.mean([stats.wasserstein_distance(a @ u, b @ u) for u in directions])
    assert sliced_wasserstein(7, a, b, 5, order=1) == pytest.approx(expected, rel=1e-12)


def test_sliced_wasserstein_laws():
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((30, 5)), 1 + generator.standard_normal((20, 5))
    value = sliced_wasserstein(7, a, b)
    assert value > 0.3
    assert sliced_wasserstein(7, a, a[::-1]) < 1e-12
    assert sliced_wasserstein(7, b, a) == pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein(7, 3 * a, 3 * b) == pytest.approx(3 * value, rel=1e-12)
    assert sliced_wasserstein(np.random.default_rng(7), a, b) == value
    assert sliced_wasserstein(8, a, b) != value


@pytest.mark.parametrize(
    ("shape_a", "shape_b", "num_slices"),
    [((3, 2), (3, 4), 9), ((3,), (3,), 9), ((0, 2), (3, 2), 9), ((3, 2), (3, 2), 0)],
)
def test_sliced_wasserstein_refuses(shape_a, shape_b, num_slices):
    with pytest.raises(UserError):
        sliced_wasserstein(0, np.zeros(shape_a), np.zeros(shape_b), num_slices)


@pytest.mark.parametrize(
    ("num_samples", "level", "low", "high"),
    [(19, 0.9, 1, 19), (19, 0.5, 5, 15), (4, 0.2, 2, 3), (5, 1 / 3, 2, 4), (3, 0.5, 1, 3)],
)
def test_interval_ends(num_samples, level, low, high):
    samples = jnp.arange(1.0, num_samples + 1)[::-1, None] * jnp.ones((1, 4))
    truth = jnp.asarray([low - 0.01, low + 0.01, high - 0.01, high + 0.01])
    inside = [
        float(interval_coverage(samples[:, i], truth[i], level)) for i in range(truth.shape[0])
    ]
    assert inside == [0.0, 1.0, 1.0, 0.0]
    assert float(interval_coverage(samples, truth, level)) == 0.5


def test_a_level_between_two_intervals_is_their_weighted_mean():
    """Of 4 samples [1, 4] covers 3 / 5 and [2, 3] covers 1 / 5."""
    samples = jnp.arange(1.0, 5)[:, None]
    found = [float(interval_coverage(samples, jnp.full(1, x), 0.5)) for x in (0.9, 1.5, 2.5, 3.5)]
    assert found == pytest.approx([0, 0.75, 1, 0.75])


@functools.cache
def draws_of(law: str) -> np.ndarray:
    draw = getattr(np.random.default_rng(1), f"standard_{law}")
    return draw((31, 400, 400), np.float32)


COVERAGES = [
    (p, level) for level in (0.1, 0.3, 0.5) for p in range(2, 11) if p - 1 >= level * (p + 1)
]


@pytest.mark.parametrize(
    ("num_samples", "level"), [*COVERAGES, (9, 0.6), (19, 0.9), (20, 0.9), (30, 0.9)]
)
@pytest.mark.parametrize("law", ["normal", "exponential"])
def test_coverage_of_exchangeable_samples_is_the_level(num_samples, level, law):
    """For every number of samples and every law; between quantiles P = 4 gives .527 for .5."""
    draws = draws_of(law)[: num_samples + 1]
    coverage = float(jax.jit(interval_coverage, static_argnums=2)(draws[1:], draws[0], level))
    assert coverage == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 160_000))


def test_coverage_sees_samples_that_are_too_narrow():
    draws = jax.random.normal(jax.random.key(1), (20, 100, 100))
    assert float(interval_coverage(0.5 * draws[1:], draws[0], 0.9)) < 0.65


@pytest.mark.parametrize(
    ("samples", "truth", "level"),
    [((18, 3), (3,), 0.9), ((19, 3), (4,), 0.9), ((19, 3), (3,), 1.0), ((1, 3), (3,), 0.1)],
)
def test_coverage_refuses(samples, truth, level):
    with pytest.raises(UserError):
        interval_coverage(jnp.zeros(samples), jnp.zeros(truth), level)


@pytest.mark.parametrize("num_samples", [2, 3, 8])
def test_crps_against_numpy(num_samples):
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((num_samples, 4, 3, 2)).astype(np.float32)
    truth = generator.standard_normal((4, 3, 2)).astype(np.float32)
    exact = samples.astype(np.float64)
    pairs = np.abs(exact[:, None] - exact[None]).sum(axis=(0, 1))
    expected = np.abs(exact - truth).mean(axis=0)
    expected = np.mean(expected - pairs / (2 * num_samples * (num_samples - 1)))
    value = float(crps(jnp.asarray(samples), jnp.asarray(truth)))
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_samples", [2, 5])
def test_crps_is_fair(num_samples):
    """For N(0, 1) its expectation is 1 / sqrt(pi) for every number of samples."""
    draws = jax.random.normal(jax.random.key(2), (num_samples + 1, 300, 300))
    assert float(crps(draws[1:], draws[0])) == pytest.approx(1 / np.sqrt(np.pi), abs=0.01)


@pytest.mark.parametrize("samples", [(1, 3), (3, 4), ()])
def test_crps_refuses(samples):
    with pytest.raises(UserError):
        crps(jnp.zeros(samples), jnp.zeros((3,)))
