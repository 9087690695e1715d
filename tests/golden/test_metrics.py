"""PSNR and SSIM against the published numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from lavps_jax.metrics.images import psnr, ssim


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("pair", ["a", "b"])
@pytest.mark.parametrize("suffix", ["", "_oneref"])
def test_psnr_and_ssim(golden, metric, pair, suffix):
    stored = golden("metrics")
    x, reference = stored.image(f"{pair}_rec"), stored.image(f"{pair}_ref")
    if suffix:
        reference = jnp.broadcast_to(reference[:1], reference.shape)
    stored.close(f"{pair}_{metric.__name__}{suffix}", jax.vmap(metric)(x, reference))
