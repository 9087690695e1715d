"""Noise that is not Gaussian has the likelihood that it is drawn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lavps_jax.config.settings import SampleConfig
from lavps_jax.data import SyntheticData
from lavps_jax.errors import UserError
from lavps_jax.operators import Identity, Inpainting, SuperResolution, families, linear_operator
from lavps_jax.problems.noise import Custom, PoissonGaussian
from lavps_jax.problems.noise_estimate import estimate_sigma_y
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, log_likelihood, residual_chi2, simulate
from lavps_jax.samplers import DDIM

SHAPE = (16, 16, 1)
X = jax.random.uniform(jax.random.key(0), SHAPE, minval=-0.9, maxval=0.9)


def test_photons_have_their_mean_and_variance():
    noise, x = Poisson(40.0), X[:8, :8]
    ys = jax.vmap(lambda key: noise.draw(key, x))(jax.random.split(jax.random.key(1), 4000))
    rate = np.asarray(40 * (x + 1) / 2)
    counts = 40 * (np.asarray(ys) + 1) / 2
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert np.abs((counts.mean(0) - rate) / np.sqrt(rate / 4000)).max() < 5
    np.testing.assert_allclose(counts.var(0), rate, rtol=0.2)


@pytest.mark.parametrize("peak", [1e2, 1e6, 1e9, 3e9, 1e10])
def test_any_number_of_photons_has_its_mean_and_spread(peak):
    """Integers of 32 bits end at 2e9, and from 1e6 on the spread of JAX's own draws is wrong."""
    x = jnp.asarray([1.0, 0.0, -0.9])[:, None] * jnp.ones((1, 200_000))
    noise = Poisson(peak)
    y = np.asarray(noise.draw(jax.random.key(0), x), np.float64)
    brightness = (np.asarray(x[:, 0], np.float64) + 1) / 2
    std = 2 * np.sqrt(brightness / peak)
    # Rounding of y: numbers around 1 are 1.2e-7 apart, and at most 6e-8 below.
    rounding = 2.0**-24
    assert (np.abs(y.mean(1) - np.asarray(x[:, 0])) < 5 * std / 200_000**0.5 + rounding).all()
    np.testing.assert_allclose(y.std(1), std, rtol=0.01, atol=0.15 * rounding)
    skewness = 1 / np.sqrt(brightness * peak)
    assert (np.abs(stats.skew(y, axis=1) - skewness) < 5 * np.sqrt(6 / 200_000)).all()


@pytest.mark.parametrize("gain", [1.0, 1e-3, 1e-6, 1e-8, 1e-10])
def test_photons_of_any_gain_have_their_mean_and_spread(gain):
    noise, x = PoissonGaussian(gain, -1.0, 1e-9), jnp.ones(100_000)
    y = np.asarray(noise.draw(jax.random.key(0), x), np.float64)
    std, rounding = np.sqrt(2 * gain), 2.0**-23
    assert abs(y.mean() - 1) < 5 * std / 100_000**0.5 + rounding
    np.testing.assert_allclose(y.std(), std, rtol=0.02, atol=0.15 * rounding)


def test_three_standard_deviations_are_seen_among_any_number_of_photons():
    for peak in (1e3, 1e6, 1e9, 1e10):
        problem = simulate(jax.random.key(1), X, Identity(x_shape=SHAPE), Poisson(peak))
        y, x = (np.asarray(one, np.float64) for one in (problem.y, X))
        std = 2 * np.sqrt((x + 1) / 2 / peak)
        away = jnp.asarray(x + 3 * std, jnp.float32)
        counts, shifted = peak * (y + 1) / 2, peak * (np.asarray(away, np.float64) + 1) / 2
        # The deviance in float64, where it has digits to lose.
        d = (shifted - counts) / counts
        expected = np.sum(counts * (np.log1p(d) - d))
        np.testing.assert_allclose(log_likelihood(problem, away), expected, rtol=1e-3)
        gradient = jax.grad(lambda x, problem=problem: log_likelihood(problem, x))(away)
        slope = peak / 2 * (counts / shifted - 1)
        np.testing.assert_allclose(gradient, slope, atol=1e-3 * np.abs(slope).max())
        spread = np.sqrt(2 * 256)
        assert abs(float(residual_chi2(problem, X)) - 256) < 5 * spread
        assert float(residual_chi2(problem, away)) > 256 + 20 * spread


def test_more_photons_than_float32_can_tell_apart_are_refused():
    with pytest.raises(
        UserError, match="^poisson_peak: got 10000000000000.0; use at most 1e.10: float32"
    ):
        SampleConfig(
            "", SyntheticData(1, SHAPE), families.Identity(), DDIM(), "", poisson_peak=1e13
        )
    with pytest.raises(UserError, match="^peak: got 10000000000000.0; use at most 1e.10: float32"):
        Poisson(1e13)


def test_likelihood_of_photons():
    peak, other = 25.0, 0.6 * X
    problem = simulate(jax.random.key(1), X, Identity(x_shape=SHAPE), Poisson(peak))
    counts = np.round(peak * (np.asarray(problem.y, np.float64) + 1) / 2)
    rates = [peak * (np.asarray(x, np.float64) + 1) / 2 for x in (X, other)]
    expected = np.subtract(*(stats.poisson.logpmf(counts, rate).sum() for rate in rates))
    found = log_likelihood(problem, X) - log_likelihood(problem, other)
    assert abs(expected) > 5
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Zero at the measurement itself, but for pixels without a photon: a rate is never zero.
    faintest = 0.1 * np.exp(-1) * np.sum(counts == 0)
    np.testing.assert_allclose(log_likelihood(problem, problem.y), -faintest, atol=1e-3)


def test_residual_of_the_truth_is_near_the_number_of_measurements():
    operator = SuperResolution(2, x_shape=SHAPE)

    def one(key):
        return residual_chi2(simulate(key, X, operator, Poisson(30.0)), X)

    found = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(2), 300)))
    assert abs(found.mean() - 64) < 5 * found.std() / np.sqrt(300)
    # Also where it is dark: the mean and the variance of a chi-square.
    dark = jnp.where(jnp.arange(16)[:, None, None] < 9, -1.0, X)
    mask = jnp.ones(SHAPE).at[:, :4].set(0.0)
    hidden = Inpainting(mask, x_shape=SHAPE)

    @jax.jit
    def faint(keys, peak):
        def one(key):
            return residual_chi2(simulate(key, dark, hidden, Poisson(peak)), dark)

        return jax.vmap(one)(keys)

    for peak in (5.0, 200.0):
        found = np.asarray(faint(jax.random.split(jax.random.key(3), 400), peak))
        assert abs(found.mean() - 192) < 8
        assert 0.8 < found.std() / np.sqrt(2 * 192) < 1.25
        problem = simulate(jax.random.key(4), dark, hidden, Poisson(peak))
        assert np.isfinite(residual_chi2(problem, dark - 0.02))
    problem = simulate(jax.random.key(0), X, operator, 0.1)
    expected = np.sum((np.asarray(problem.y) - operator.forward(X)) ** 2) / 0.1**2
    np.testing.assert_allclose(residual_chi2(problem, X), expected, rtol=1e-5)


def test_dark_and_hidden_pixels_have_finite_gradients():
    mask = jnp.ones((16, 16, 1)).at[:8].set(0.0)
    operator = Inpainting(mask, x_shape=SHAPE)
    problem = simulate(jax.random.key(1), X, operator, Poisson(20.0))
    for x in (X, -jnp.ones(SHAPE), -3 * jnp.ones(SHAPE)):
        gradient = np.asarray(jax.grad(lambda x: log_likelihood(problem, x))(x))
        assert np.isfinite(gradient).all() and np.any(gradient[8:])
        assert not np.any(gradient[:8])
    assert 0 < float(problem.sigma_y) < 1
    complex_y = linear_operator(lambda _, x: jnp.fft.fft2(x[..., 0]), SHAPE)
    for make in (
        lambda: simulate(jax.random.key(1), X, complex_y, Poisson(9.0)),
        lambda: Problem(X + 1j, Identity(x_shape=SHAPE), Poisson(9.0)),
    ):
        with pytest.raises(UserError, match="y: got dtype complex64"):
            make()
    black = simulate(jax.random.key(1), -jnp.ones(SHAPE), Identity(x_shape=SHAPE), Poisson(20.0))
    np.testing.assert_array_equal(black.y, -1)


def laplace(scale, y, prediction):
    return -jnp.sum(jnp.abs(y - prediction)) / scale


def test_a_likelihood_of_ones_own():
    problem = Problem(X, Identity(x_shape=SHAPE), Custom(laplace, 0.2, data=0.2))
    np.testing.assert_allclose(log_likelihood(problem, X + 0.1), -256 * 0.1 / 0.2, rtol=1e-4)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    both = jax.vmap(log_likelihood, (0, None))(stacked, X + 0.1)
    np.testing.assert_allclose(both, -128, rtol=1e-4)


def test_the_noise_of_a_smooth_image_is_estimated():
    rows, columns = np.mgrid[:64, :48] / 20
    smooth = 0.6 * np.sin(rows) * np.cos(columns)
    generator = np.random.default_rng(0)
    for sigma_y in (0.005, 0.05, 0.1):
        y = smooth[..., None] + sigma_y * generator.normal(size=(64, 48, 3))
        np.testing.assert_allclose(estimate_sigma_y(y), sigma_y, rtol=0.08)
    for sigma_y in (0.5, 1.0):  # Floats are not clipped.
        y = smooth[..., None] + sigma_y * generator.normal(size=(64, 48, 3))
        np.testing.assert_allclose(estimate_sigma_y(y), sigma_y, rtol=0.08)


def test_the_noise_of_8_bits_is_estimated():
    step, generator = 2 / 255, np.random.default_rng(0)
    for sigma_y in (0.0, 0.003, 0.006, 0.02, 0.1):
        y = 0.3 + sigma_y * generator.normal(size=(128, 128, 3))
        y = np.clip(np.round(y / step) * step, -1, 1)
        if not sigma_y:
            y += step * generator.integers(0, 2, y.shape)  # Nothing but the rounding of levels.
        found = estimate_sigma_y(y, step=step)
        if sigma_y:
            np.testing.assert_allclose(found, (sigma_y**2 + step**2 / 12) ** 0.5, rtol=0.12)
        else:
            assert found < step
    # Where nearly all is white, noise was clipped.
    brightness = np.where(np.arange(128) < 50, 0.3, 1.0)[:, None, None]
    y = np.clip(brightness + 0.1 * generator.normal(size=(128, 128, 1)), -1, 1)
    assert estimate_sigma_y(y) < 0.085 < 0.09 < estimate_sigma_y(y, step=step) < 0.11
    with pytest.raises(UserError, match="sigma_y: got estimate; give a number"):
        estimate_sigma_y(np.ones((8, 8, 1)), step=step)


def test_hidden_pixels_say_nothing_about_noise():
    generator = np.random.default_rng(0)
    y = 0.05 * generator.normal(size=(64, 64, 1))
    seen = generator.uniform(size=y.shape) < 0.8
    hidden = np.where(seen, y, 0)
    np.testing.assert_allclose(estimate_sigma_y(hidden, seen), 0.05, rtol=0.08)
    with pytest.raises(UserError, match="too few measured pixels lie together"):
        estimate_sigma_y(hidden, generator.uniform(size=y.shape) < 0.1)


def test_what_cannot_be_estimated():
    y = 0.1 * np.random.default_rng(0).normal(size=(16, 16, 3))
    for unusable in (y[..., 0], y + 1j, np.ones((8, 8, 1))):
        with pytest.raises(UserError, match="sigma_y: got estimate"):
            estimate_sigma_y(unusable)


@pytest.mark.parametrize("side", [8, 32, 64, 256])
def test_rounding_is_no_noise(side):
    flat = np.full((side, side, 1), 128 / 127.5 - 1)
    ramp = np.sin(np.arange(side)[:, None, None] / 40) * np.cos(np.arange(side)[:, None] / 50)
    step = 2 / 255
    for clean in (flat, np.round(0.6 * ramp / step) * step):
        with pytest.raises(UserError, match="no noise is to be seen"):
            estimate_sigma_y(clean, step=step)
    with pytest.raises(UserError, match="no noise is to be seen"):
        estimate_sigma_y(flat.astype(np.float32) * (1 + 1e-7))


def test_the_typical_spread_of_photons_is_that_of_what_was_seen():
    noise, y = Poisson(100.0), jnp.full((10, 10, 1), -0.98)
    seen = jnp.zeros((10, 10, 1)).at[:, 0].set(1.0)
    # One photon in each pixel.
    for mask, hidden in ((seen, 0.0), (jnp.ones((10, 10, 1)), -0.98)):
        y_ = jnp.where(mask > 0, y, hidden)
        assert float(noise.typical_std(y_, mask)) == pytest.approx(0.02, rel=1e-3)
    few = Poisson(1.0)
    assert float(few.typical_std(y, jnp.ones(y.shape))) == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("step", [0.0, 2 / 255])
def test_noise_that_is_mostly_clipped_is_not_estimated(step):
    noise = np.random.default_rng(0).standard_normal((128, 128, 1))

    def clipped(sigma_y):
        y = np.clip(sigma_y * noise, -1, 1)
        return np.round((y + 1) / step) * step - 1 if step else y

    if step:
        assert estimate_sigma_y(clipped(0.3), step=step) == pytest.approx(0.3, rel=0.06)
    for sigma_y in (0.6, 1.0):
        with pytest.raises(UserError, match="noise above 0.4 cannot be told from clipped"):
            estimate_sigma_y(clipped(sigma_y), step=step)
    # Of floats beyond black and white nothing was clipped.
    assert estimate_sigma_y(1.0 * noise) == pytest.approx(1.0, rel=0.06)
