"""Every family of operators on the 64 shipped images: do MGDM and LAVPS beat the naive start?

The naive start is A^+ y of a linear operator and the operator's own estimate otherwise. LAVPS uses
the network that was trained on motion blur, so that it compares its starts everywhere else.
Colorization is left out: the shipped prior is of grey images. Motion blur, super-resolution by 2
and random pixels are measured by restoration.py. Families that the file of results holds already
are not run again; delete it to start anew. Prints the rows of docs/results/operators.md.

Command: python -m benchmarks.operators
"""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.reporting.record import current_commit, earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.errors import UserError
from lavps_jax.operators import families
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.runs.sampling import run_sampling
from lavps_jax.samplers import LAVPS

PRECISE = ("denoising",)
"""Where y is close to the image already: cheap settings end further from it than y is. MGDM as in
the preset, LAVPS with three gradient steps in its 14 blocks."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    num_images: int = 64
    families: tuple[str, ...] = ()
    """Names of families; empty is all."""
    out: str = "docs/results/operators.json"
    pictures: str = "outputs/operators"


def all_families(folder: Path) -> dict[str, OperatorFamily]:
    """All of them by name; the files that two of them read are written to the folder.

    Raises:
      UserError: if there are others of these names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:32, :32]
    painted = (np.hypot(rows - 12, columns - 18) > 7) & (np.abs(rows - columns) > 2)
    mask, kernel = io.BytesIO(), io.BytesIO()
    Image.fromarray((255 * painted).astype(np.uint8)).save(mask, "PNG")
    np.save(kernel, np.eye(7) + np.eye(7)[::-1])
    for name, content in (("mask.png", mask.getvalue()), ("kernel.npy", kernel.getvalue())):
        file = folder / name
        if file.exists() and file.read_bytes() != content:
            raise UserError("pictures", file, "give another folder: this file would be replaced")
        file.write_bytes(content)
    return {
        "denoising": families.Identity(),
        "random box": families.RandomBox(),
        "centre box": families.CentreBox(),
        "half missing": families.HalfImage(),
        "outpainting": families.Outpainting(),
        "painted mask": families.MaskFile(str(folder / "mask.png")),
        "super-resolution x4": families.SuperResolution(4),
        "super-resolution x16": families.SuperResolution(16),
        "bicubic x4": families.SuperResolutionBicubic(4),
        "gaussian blur, circular": families.GaussianBlur(9, 1.5, border="circular"),
        "anisotropic blur": families.AnisotropicBlur(9, 3.0, 0.7),
        "kernel from a file": families.KernelFile(str(folder / "kernel.npy")),
        "compressed sensing": families.CompressedSensing(0.25),
        "Fourier lines": families.FourierLines(4.0),
        "blur, then smaller": families.Composition(
            families.GaussianBlur(5, 1.0), families.SuperResolution(2)
        ),
        "small and pixels": families.Stack((families.SuperResolution(4), families.RandomPixels())),
        "mixture": families.Mixture(
            (families.RandomPixels(), families.SuperResolution(2), families.MotionBlur(9))
        ),
        "phase retrieval": families.PhaseRetrieval(),
        "high dynamic range": families.HighDynamicRange(),
        "JPEG, quality 10": families.JPEG(10),
        "tone curve, 3 bits": families.ToneCurve(1.5, 3),
        "non-linear blur": families.NonlinearBlur(9),
    }


def measure(config: Config, name: str, family: OperatorFamily) -> dict[str, Any]:
    """Mean scores of the naive start and of both samplers."""
    preset: SampleConfig = load_preset("configs/fashion_mnist.py")
    lavps, (mgdm, _) = preset.sampler, preset.compare_with
    assert isinstance(lavps, LAVPS)
    # Cheap settings: starts are compared in 14 blocks, and MGDM takes a quarter of the steps.
    lavps = lavps.replace(high_idx=15)
    inner = lavps.inner.replace(num_inner_steps=3)
    if name in PRECISE:
        lavps = lavps.replace(inner_low_noise=inner)
    else:
        mgdm = mgdm.replace(num_steps=25, inner_low_noise=inner)
    run = dataclasses.replace(
        preset,
        operator=family,
        sampler=lavps,
        compare_with=(mgdm,),
        num_images=config.num_images,
        num_particles=1,
        batch_size=32,
        out_dir=f"{config.pictures}/{name.replace(' ', '_').replace(',', '')}",
    )
    folder = run_sampling(run, Console())
    metrics = json.loads((folder / "metrics.json").read_text())
    other = metrics["compared"][0]
    return {
        "naive": metrics["baseline"],
        "lavps": metrics["mean"],
        "mgdm": other["mean"],
        "config": json.loads((folder / "config.json").read_text()),
        "commit": current_commit(),  # That of the file is of the last family.
    }


def main(config: Config) -> None:
    out = Path(config.out)
    found = (earlier("out", out) or {"results": {}})["results"]
    known = all_families(Path(config.pictures))
    for name in config.families or known:
        if name not in found:
            found[name] = measure(config, name, known[name])
            record(config.out, found)
        row = found[name]
        psnr = " | ".join(f"{row[kind]['psnr']:.2f}" for kind in ("naive", "mgdm", "lavps"))
        lpips = " | ".join(f"{row[kind]['lpips_alex']:.3f}" for kind in ("naive", "mgdm", "lavps"))
        inside, spent = (
            " | ".join(f"{row[kind][score]:.2f}" for kind in ("mgdm", "lavps"))
            for score in ("residual_inside_99", "seconds_per_image")
        )
        print(f"| {name} | {psnr} | {lpips} | {inside} | {spent} |", flush=True)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.operators")
        )
    )
