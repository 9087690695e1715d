"""Distances of sets against closed forms."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from lavps_jax.errors import UserError
from lavps_jax.metrics.lpips import load_lpips_weights, lpips_features
from lavps_jax.metrics.set_distances import frechet_distance, kernel_distance

RNG = np.random.default_rng(0)


def with_moments(mean, covariance, count=40):
    """Features whose sample mean and covariance are exactly these."""
    draws = RNG.normal(size=(count, len(mean)))
    draws -= draws.mean(0)
    spread = np.atleast_2d(np.cov(draws, rowvar=False))
    draws = draws @ np.linalg.inv(np.linalg.cholesky(spread)).T
    return draws @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_known_moments():
    """Commuting covariances: ||m - n||^2 + sum (sqrt(s) - sqrt(t))^2 over their eigenvalues."""
    turn = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    s, t = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])
    a = with_moments(np.zeros(3), turn * s @ turn.T)
    b = with_moments(np.array([1.0, 2.0, 0.0]), turn * t @ turn.T, count=60)
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 1 + 2.5**2)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    single = [with_moments(np.array([m]), np.array([[v]])) for m, v in ((0.0, 1.0), (2.0, 9.0))]
    assert frechet_distance(*single) == pytest.approx(4 + 4)


def test_kernel_distance_has_no_bias():
    """Over many draws of one law its mean is 0; the law of a shifted set is told."""
    for kernel in ("cubic", "gaussian"):
        found = [
            kernel_distance(*RNG.normal(size=(2, 10, 4)) * 6, kernel)  # type: ignore[misc]
            for _ in range(400)
        ]
        assert abs(np.mean(found)) < 4 * np.std(found) / 20
        far = kernel_distance(
            RNG.normal(size=(50, 4)) * 6, RNG.normal(size=(50, 4)) * 6 + 9, kernel
        )
        assert far > np.mean(found) + 5 * np.std(found)


def test_kernels_have_their_published_form():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [0.0, 0.0]])
    # (x . y / 2 + 1)^3: within a 1, within b 1, across (1.5 + 1)^3, 1, 1, 1.
    assert kernel_distance(a, b) == pytest.approx(2 - 2 * (2.5**3 + 3) / 4)
    across = [np.exp(-d / 200) for d in (4, 1, 13, 4)]
    expected = np.exp(-5 / 200) + np.exp(-9 / 200) - 2 * np.mean(across)
    assert kernel_distance(a, b, "gaussian") == pytest.approx(expected)


def test_features_tell_images_apart():
    weights = load_lpips_weights("alexnet")
    images = RNG.uniform(-1, 1, (2, 32, 32, 1)).astype(np.float32)
    images[1] = np.linspace(-1, 1, 32)[:, None]
    features = jax.vmap(lambda x: lpips_features(weights, x))(images)
    assert features.shape == (2, 256) and np.abs(features[0] - features[1]).max() > 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"features: got shapes \(3, 2\) and \(3, 4\)"):
        frechet_distance(np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(UserError, match="N and M of at least 2"):
        kernel_distance(np.ones((1, 2)), np.ones((3, 2)))
    with pytest.raises(UserError, match="kernel: got 'linear'"):
        kernel_distance(np.ones((2, 2)), np.ones((3, 2)), "linear")  # type: ignore[arg-type]
