"""Denoising of whole photographs by a prior and by wavelets, in PSNR.

Noise of standard deviation 15, 25, 50, 127.5 and 255 on levels from 0 to 255, the same for both;
results are cut to that range. The wavelet denoiser is BayesShrink (Chang, Yu, Vetterli, IEEE
Transactions on Image Processing 2000) on YCbCr as in scikit-image, and is told the noise level,
too.

Needs scikit-image and PyWavelets (pip install scikit-image PyWavelets).
Command: python -m benchmarks.photo_denoising --images FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage.restoration import denoise_wavelet  # type: ignore

from benchmarks.reporting.intervals import mean_interval
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.metrics import psnr
from lavps_jax.runs.loading import load_prior

LEVELS = (15.0, 25.0, 50.0, 127.5, 255.0)
"""Standard deviations of the noise, where white is 255."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    images: str
    """Folder of photographs."""
    prior: str = "pretrained/photo/prior"
    num_images: int = 24
    """The first ones by name."""
    out: str = "docs/results/photo_denoising.json"


def noisy(image: np.ndarray, level: float, index: int) -> np.ndarray:
    """The image, in [-1, 1], with noise that depends on the number of the image alone."""
    noise = np.random.default_rng(index).normal(size=image.shape)
    return (image + 2 * level / 255 * noise).astype(np.float32)


def by_wavelets(z: np.ndarray, level: float) -> np.ndarray:
    """The denoised image, in [-1, 1]."""
    unit = (z + 1) / 2
    return 2 * denoise_wavelet(
        unit, sigma=level / 255, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True
    ) - 1  # fmt: skip


def main(arguments: list[str]) -> None:
    config = cli.from_flags(Config, arguments, prog="python -m benchmarks.photo_denoising")
    earlier("out", config.out)
    prior = load_prior(config.prior)
    denoise = jax.jit(prior.at_sigma)
    files = sorted(Path(config.images).iterdir())[: config.num_images]
    photographs = []
    for file in files:
        with Image.open(file) as picture:
            photographs.append(np.asarray(picture.convert("RGB"), np.float32) / 127.5 - 1)
    results: dict[str, Any] = {"images": [file.name for file in files]}
    for level in LEVELS:
        scores: dict[str, list[float]] = {"prior": [], "wavelets": [], "noisy": []}
        for index, image in enumerate(photographs):
            z = noisy(image, level, index)
            ours = np.asarray(denoise(z, jnp.float32(2 * level / 255)))
            for name, found in (("prior", ours), ("wavelets", by_wavelets(z, level)), ("noisy", z)):
                scores[name].append(float(psnr(jnp.clip(found, -1, 1), image)))
        results[f"psnr at {level:g}"] = {
            name: mean_interval(values)._asdict() for name, values in scores.items()
        }
        print(level, results[f"psnr at {level:g}"], flush=True)
    record(config.out, results)


if __name__ == "__main__":
    cli.main(main)
