"""How good reconstructions and posterior samples are: distances, residual tests, calibration.

Distances and calibration measures are JAX functions of ONE image (or of the samples for one
image); put `jax.vmap` around them for a batch. `chi2_band` and `sliced_wasserstein` run on the
host in float64. LPIPS has its own module, `lavps_jax.metrics.lpips`.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epy
from jaxtyping import Array, Float

from lavps_jax.errors import UserError

with epy.lazy_imports():  # A fifth of a second that only scores need.
    import dm_pix
    from scipy import special

_WINDOW_SIZE = 11
_WINDOW_STD = 1.5


def psnr(x: Float[Array, "H W C"], reference: Float[Array, "H W C"]) -> Float[Array, ""]:
    """Peak signal-to-noise ratio in dB, float (); infinite for equal images.

    -10 log10(mean squared error) of the images mapped to [0, 1], so that the peak is 1.

    Args:
      x: image, float (H, W, C) in [-1, 1]. Values outside are used as they are: clip first if the
        clipped image is the one reported.
      reference: the true image, float (H, W, C) in [-1, 1].
    Raises:
      UserError: if the shapes differ.
    """
    _check_same_shape(x, reference)
    return jnp.asarray(dm_pix.psnr(_to_unit(x), _to_unit(reference)))


def ssim(x: Float[Array, "H W C"], reference: Float[Array, "H W C"]) -> Float[Array, ""]:
    """Structural similarity, float () in [-1, 1]; 1 for equal images.

    11x11 Gaussian window of standard deviation 1.5, C1 = 0.01^2, C2 = 0.03^2, images mapped to
    [0, 1], mean over all pixels and channels. The window is applied with ZERO padding, so border
    pixels count: this is what the published LAVPS results use. Wang et al. and the default of
    `dm_pix.ssim` average over the pixels whose whole window lies inside the image, which gives
    slightly other values and none at all for images smaller than the window.

    Args:
      x: image, float (H, W, C) in [-1, 1], of any size. Values outside are used as they are.
      reference: the true image, float (H, W, C) in [-1, 1].
    Raises:
      UserError: if the shapes differ.
    References: Wang et al., "Image Quality Assessment: From Error Visibility to Structural
      Similarity", IEEE TIP 2004.
    """
    _check_same_shape(x, reference)
    return jnp.asarray(dm_pix.ssim(_to_unit(x), _to_unit(reference), filter_fn=_window_mean))


def chi2_band(num_observed: float | Float[Array, ""], level: float = 0.99) -> tuple[float, float]:
    """The central interval (low, high) that holds the chi-square of the true image, see
    `lavps_jax.problems.residual_chi2`.

    Exact quantiles (1 - level) / 2 and (1 + level) / 2 of the chi-square distribution, computed
    on the host.

    Args:
      num_observed: degrees of freedom, the operator's `num_observed()`, positive.
      level: probability of the interval, 0 < level < 1.
    Raises:
      UserError: if an argument is out of range.
    """
    half_count = 0.5 * float(num_observed)
    _check_level(level)
    if not half_count > 0:
        raise UserError("num_observed", num_observed, "give a positive number")
    tail = 0.5 * (1.0 - level)
    low = 2.0 * special.gammaincinv(half_count, tail)
    high = 2.0 * special.gammainccinv(half_count, tail)
    return float(low), float(high)


def sliced_wasserstein(
    rng: int | np.random.Generator,
    samples_a: np.ndarray,
    samples_b: np.ndarray,
    num_slices: int = 100,
    order: Literal[1, 2] = 2,
) -> float:
    """Sliced p-Wasserstein distance between two sets of samples, on the host in float64.

    (mean over num_slices directions u of W_p^p(u . a, u . b))^(1/p), with u uniform on the unit
    sphere and W_p^p(u . a, u . b) = integral over q in (0, 1) of |F_a^-1(q) - F_b^-1(q)|^p, exact
    for the two empirical distributions (their sizes may differ). This is the definition of
    Bonneel et al., not divided by the dimension: for d-dimensional samples that differ by a shift s
    it is about ||s|| / sqrt(d) with p = 2. Tests of diffusion posterior samplers on Gaussian
    mixtures customarily use 100 slices and p = 1 (Cardoso et al.): with p = 2 a wrong weight of a
    far mode counts with its square root, and two finite exact sets are far from each other.

    Args:
      rng: seed or NumPy generator that draws the directions. The same seed gives the same
        directions, so that distances of several samplers can be compared.
      samples_a: float (n_a, d).
      samples_b: float (n_b, d).
      num_slices: number of directions, at least 1.
      order: p.
    Raises:
      UserError: if the samples are not two non-empty matrices with the same d.
    Cost: O(num_slices (n_a + n_b) (d + log(n_a + n_b))).
    References: Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", JMIV 2015;
      Cardoso et al., "Monte Carlo Guided Diffusion for Bayesian Linear Inverse Problems",
      ICLR 2024, arXiv:2308.07983 (its use for posterior samplers).
    """
    a = np.asarray(samples_a, dtype=np.float64)
    b = np.asarray(samples_b, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in (a.size, b.size):
        raise UserError("samples", f"shapes {a.shape} and {b.shape}", "give (n_a, d) and (n_b, d)")
    if num_slices < 1:
        raise UserError("num_slices", num_slices, "give a positive number")
    directions = np.random.default_rng(rng).standard_normal((num_slices, a.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Both quantile functions are constant between neighbouring ends. In units of 1 / (n_a n_b)
    # the ends are integers, so that equal ones are found exactly.
    ends = np.union1d(np.arange(1, len(a) + 1) * len(b), np.arange(1, len(b) + 1) * len(a))
    widths = np.diff(ends, prepend=0) / (len(a) * len(b))
    index_a = (ends - 1) // len(b)
    index_b = (ends - 1) // len(a)
    gaps = (
        np.abs(np.sort(a @ direction)[index_a] - np.sort(b @ direction)[index_b])
        for direction in directions
    )
    return float(np.mean([np.sum(widths * gap**order) for gap in gaps]) ** (1 / order))


def interval_coverage(
    samples: Float[Array, "P ..."], truth: Float[Array, ...], level: float
) -> Float[Array, ""]:
    """Fraction of the pixels whose true value lies in the samples' central interval, float ().

    Averaged over many images it equals `level` if truth and samples are independent draws of the
    same continuous posterior, for every P: a further draw falls between the k-th smallest and the
    k-th largest of P with probability (P + 1 - 2 k) / (P + 1). What is returned is the mean over
    the two such intervals whose probabilities enclose `level`, weighted so that theirs is `level`.
    An interval between interpolated quantiles has a probability that depends on the posterior.

    Args:
      samples: float (P, ...), at least (1 + level) / (1 - level) of them (19 for 0.9, 3 for 0.5):
        with fewer even the whole range of the samples covers less than `level`.
      truth: float (...).
      level: probability of the interval, 0 < level < 1, a Python number.
    Raises:
      UserError: if shapes do not fit, or there are too few samples for the level.
    """
    _check_samples(samples, truth)
    _check_level(level)
    num_samples = samples.shape[0]
    widest = (num_samples - 1) / (num_samples + 1)
    if level > widest + 1e-9:
        raise UserError(
            "level",
            f"{level} with {num_samples} samples",
            f"give a level of at most {widest:.3f} or more samples",
        )
    ordered = jnp.sort(samples, axis=0)
    # In units of 1 / (P + 1), which are gaps between neighbours; the innermost interval is empty.
    gaps = level * (num_samples + 1)
    rank = min(max(int((num_samples + 1 - gaps) / 2), 1), num_samples // 2)
    wide = num_samples + 1 - 2 * rank
    narrow = max(wide - 2, 0)
    weight = min((gaps - narrow) / (wide - narrow), 1.0)

    def covers(k: int) -> Array:
        """Whether the truth lies between the k-th smallest and the k-th largest."""
        return (ordered[k - 1] <= truth) & (truth <= ordered[-k])

    return jnp.mean(weight * covers(rank) + (1 - weight) * covers(rank + 1))


def crps(samples: Float[Array, "P ..."], truth: Float[Array, ...]) -> Float[Array, ""]:
    """Continuous ranked probability score of the pixels' samples, mean over pixels, float ().

    The fair estimator mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 P (P - 1)): its expectation is
    E|X - y| - E|X - X'| / 2 for every P, so runs with different numbers of samples compare. Lower
    is better; the true posterior has the lowest mean. In the units of the images; one pixel's
    estimate can be negative.

    Args:
      samples: float (P, ...), P >= 2.
      truth: float (...).
    Raises:
      UserError: if shapes do not fit or P < 2.
    References: Ferro, "Fair scores for ensemble forecasts", QJRMS 2014.
    """
    _check_samples(samples, truth)
    num_samples = samples.shape[0]
    if num_samples < 2:
        raise UserError("samples", f"{num_samples} sample", "give at least 2")
    ordered = jnp.sort(samples - truth[None], axis=0)
    # sum_ij |x_i - x_j| / 2 over sorted values: the k-th (from 0) is added k times and subtracted
    # P - 1 - k times.
    signs = 2.0 * jnp.arange(num_samples, dtype=ordered.dtype) - (num_samples - 1)
    spread = jnp.tensordot(signs, ordered, axes=1, precision=jax.lax.Precision.HIGHEST)
    return jnp.mean(jnp.abs(ordered)) - jnp.mean(spread) / (num_samples * (num_samples - 1))


def _to_unit(x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    return 0.5 * (x + 1.0)


def _window_mean(x: Any) -> Any:  # images (..., H, W, C)
    # A variance is a small difference of two such means: TensorFloat-32 would lose it.
    with jax.default_matmul_precision("highest"):
        return dm_pix.gaussian_blur(x, _WINDOW_STD, _WINDOW_SIZE, padding="SAME")


def _check_same_shape(x: Array, reference: Array) -> None:
    if x.shape != reference.shape:
        raise UserError("x", f"shape {x.shape}", f"give the reference's shape {reference.shape}")


def _check_samples(samples: Array, truth: Array) -> None:
    if samples.ndim == 0 or samples.shape[1:] != truth.shape:
        raise UserError("samples", f"shape {samples.shape}", f"give (P, ...) = (P, *{truth.shape})")


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise UserError("level", level, "give a number between 0 and 1")
