"""Scores of images, of ensembles of samples, and of sets of images."""

from lavps_jax.metrics.images import (
    chi2_band,
    crps,
    interval_coverage,
    psnr,
    sliced_wasserstein,
    ssim,
)

__all__ = ["chi2_band", "crps", "interval_coverage", "psnr", "sliced_wasserstein", "ssim"]
