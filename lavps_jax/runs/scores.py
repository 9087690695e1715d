"""Scores of restored images: of every sample, and of all samples of a measurement together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.metrics.images import chi2_band, crps, interval_coverage, psnr, ssim
from lavps_jax.metrics.lpips import LPIPSNet, load_lpips_weights, lpips
from lavps_jax.problems.problem import residual_chi2
from lavps_jax.runs.measurements import Measured

_LPIPS_NAMES: dict[LPIPSNet, str] = {"alexnet": "lpips_alex", "vgg16": "lpips_vgg"}
FAR = 2.0
"""A chi-square this many times too large or too small says that a result means nothing."""
_LEVELS = {"coverage_50": 0.5, "coverage_90": 0.9}


def sample_scores(
    samples: Float[np.ndarray, "B P H W C"],
    measured: Measured,
    lpips_nets: Sequence[LPIPSNet] = ("alexnet",),
) -> dict[str, Float[np.ndarray, "B P"]]:
    """Of every sample, each (B, P).

    Returns:
      "residual_chi2", and whether it lies in the central 99 % of what the true image has,
      "residual_inside_99". Where the clean images are known also "psnr" (dB), "ssim", and
      "lpips_alex" and "lpips_vgg" as chosen, all of the samples clipped to [-1, 1].
    """
    weights = None
    if measured.x_0 is not None:
        weights = {_LPIPS_NAMES[net]: load_lpips_weights(net) for net in lpips_nets}
    found = _sample_scores(weights, samples, measured.x_0, measured.problems)
    table = jax.tree.map(np.asarray, found)
    low, high = np.array([chi2_band(count) for count in num_observed(measured)]).T
    chi2 = table["residual_chi2"]
    return table | {"residual_inside_99": (chi2 >= low[:, None]) & (chi2 <= high[:, None])}


def num_observed(measured: Measured) -> Float[np.ndarray, " B"]:
    """How many entries of every measurement carry one."""
    count = jax.vmap(lambda problem: problem.num_observed())
    return np.asarray(count(measured.problems))


@jax.jit
def _sample_scores(weights, samples, x_0, problems) -> dict[str, Array]:
    """Image after image; without clean images there is only the residual."""

    def one(x, x_0, problem):
        chi2 = {"residual_chi2": residual_chi2(problem, x)}
        if x_0 is None:
            return chi2
        # PSNR, SSIM and LPIPS are of displayable images; the residual is of the sample as it is.
        shown = jnp.clip(x, -1, 1)
        perceived = {name: lpips(net, shown, x_0) for name, net in weights.items()}
        return {"psnr": psnr(shown, x_0), "ssim": ssim(shown, x_0)} | perceived | chi2

    over_particles = jax.vmap(one, in_axes=(0, None, None))
    return jax.lax.map(lambda row: over_particles(*row), (samples, x_0, problems))


def finite_mean(values: np.ndarray) -> float | None:
    """The mean of the finite values; None if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def fit_warnings(
    name: str, table: Mapping[str, Float[np.ndarray, "B P"]], observed: Float[np.ndarray, " B"]
) -> list[str]:
    """A sentence if most samples of a sampler are far from fitting their measurement, or none.

    Far is outside of the central 99 % of what the true image has, and `FAR` times its mean or
    more, or its `FAR`-th part or less.

    Args:
      name: of the sampler.
      table: `sample_scores` of its samples.
      observed: `num_observed` of their measurements.
    """
    ratio = table["residual_chi2"] / observed[:, None]
    outside = ~table["residual_inside_99"]
    above, below = outside & (ratio >= FAR), outside & (ratio <= 1 / FAR)
    if 2 * above.sum() > above.size:
        return [
            f"{name}: {above.sum()} of {above.size} samples do not fit what was measured "
            f"(residual {np.median(ratio):.3g} times what the noise explains): do not trust them; "
            "more steps, another sampler or prior, or another operator or sigma_y may help."
        ]
    if 2 * below.sum() > below.size:
        return [
            f"{name}: {below.sum()} of {below.size} samples fit the noise too "
            f"(residual {np.median(ratio):.2g} times what it should be): sigma_y may be too large."
        ]
    return []


def ensemble_scores(
    samples: Float[np.ndarray, "B P H W C"], measured: Measured
) -> dict[str, Float[np.ndarray, " B"]]:
    """Of the P samples of each measurement together, each (B,).

    Returns:
      Nothing for one particle or where the clean images are not known. Otherwise "psnr_of_mean",
      the PSNR of their mean in dB; "pixel_std", their standard deviation (root of the mean variance
      of pixels), of which none means that all are the same; "crps" in units of images; and, where P
      suffices, "coverage_50" (from P = 3) and "coverage_90" (from P = 19), see
      `lavps_jax.metrics.images.interval_coverage`.
    """
    if measured.x_0 is None or samples.shape[1] < 2:
        return {}
    return jax.tree.map(np.asarray, _ensemble_scores(samples, measured.x_0))


@jax.jit
def _ensemble_scores(samples, x_0) -> dict[str, Array]:
    count = samples.shape[1]
    enough = {name: level for name, level in _LEVELS.items() if level <= (count - 1) / (count + 1)}

    def one(samples, x_0):
        mean = jnp.clip(samples.mean(0), -1, 1)
        variance = jnp.var(samples, axis=0, ddof=1)
        covered = {name: interval_coverage(samples, x_0, level) for name, level in enough.items()}
        spread = {"pixel_std": jnp.sqrt(variance.mean()), "crps": crps(samples, x_0)}
        return {"psnr_of_mean": psnr(mean, x_0)} | spread | covered

    return jax.vmap(one)(samples, x_0)
