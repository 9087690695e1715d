"""Photographs: which crops the suites "photos" and "photos_unseen" restore, and with what.

The test photographs are the 42 of `test` but for the first 16 by name, on which settings were
chosen, and Kodak's 24; of each the centre.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from benchmarks.comparison.points import Point, Suite
from lavps_jax.config.settings import load_preset
from lavps_jax.data import FolderData
from lavps_jax.operators import families
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.samplers import DDNM, DING, DPS, LAVPS, MGDM, DiffPIR, FastDIPS, Inner

PRIOR = "pretrained/photo/prior"
GAUSS_NEWTON = "MGDM from Gauss-Newton"
FOLDERS = ("test", "kodak")
NUM_CHOSEN_ON = 16
"""Of the photographs in `test`."""

SEEN: Mapping[str, OperatorFamily] = {
    "motion blur": families.MotionBlur(31, intensity=0.5),
    "gaussian blur": families.GaussianBlur(31, std=2.0),
    "super-resolution": families.SuperResolution(4),
    "random pixels": families.RandomPixels(0.3, 0.3),
    "random box": families.RandomBox(0.3, 0.3),
    "half resolution": families.SuperResolutionBicubic(2),
}
"""Inside what configs/photo_amortized.py trains on."""

UNSEEN: Mapping[str, OperatorFamily] = {
    "straighter motion blur": families.MotionBlur(41, intensity=0.1),
    "defocus": families.DefocusBlur(21, radius=4.0),
    "super-resolution by 8": families.SuperResolution(8),
    "half image": families.HalfImage(),
    "outpainting": families.Outpainting(),
    "jpeg": families.JPEG(10),
    "high dynamic range": families.HighDynamicRange(),
    "non-linear blur": families.NonlinearBlur(),
}
"""What that leaves out."""


def _suite(tasks: Mapping[str, OperatorFamily]) -> Suite:
    return Suite(PRIOR, tasks, num_images=50, num_particles=1, lpips_vgg=False, batch_size=10)


SUITE_SEEN, SUITE_UNSEEN = _suite(SEEN), _suite(UNSEEN)


def _lavps(num_inner_steps: int) -> LAVPS:
    """As configs/photo_deblur.py, but for K."""
    return load_preset("configs/photo_deblur.py").sampler.replace(
        inner_low_noise=Inner(num_inner_steps, 0.2)
    )


def _gauss_newton(num_inner_steps: int) -> MGDM:
    """The same without the network."""
    lavps = _lavps(num_inner_steps)
    shared = ("inner", "inner_low_noise", "zero_shot", "num_steps", "grid_power")
    return MGDM(**{name: getattr(lavps, name) for name in shared})


def _mgdm(num_inner_steps: int) -> MGDM:
    """From the block prior."""
    return MGDM(inner_low_noise=Inner(num_inner_steps), num_steps=30)


def seen_points() -> list[Point]:
    """All methods over their budgets."""
    points = [Point("LAVPS", f"K = {k}", _lavps(k)) for k in (0, 1)]
    points += [Point(GAUSS_NEWTON, f"K = {k}", _gauss_newton(k)) for k in (0, 1)]
    points += [Point("MGDM", f"K = {k}", _mgdm(k)) for k in (1, 3)]
    points += [Point("DPS", "n = 30", DPS(30))]
    points += [Point("DiffPIR", f"n = {n}", DiffPIR(n)) for n in (15, 30)]
    points += [Point("DDNM+", "n = 30", DDNM(30)), Point("DING", "n = 30", DING(30))]
    points += [Point("FAST-DIPS", f"n = {n}", FastDIPS(n)) for n in (15, 30)]
    return points


def unseen_points() -> list[Point]:
    """One budget each; LAVPS compares its network's start with the Gauss-Newton step."""
    return [
        Point("LAVPS", "K = 0", _lavps(0)),
        Point(GAUSS_NEWTON, "K = 0", _gauss_newton(0)),
        Point("MGDM", "K = 3", _mgdm(3)),
        Point("DiffPIR", "n = 30", DiffPIR(30)),
        Point("FAST-DIPS", "n = 30", FastDIPS(30)),
    ]


def prepare_crops(photographs: Path, crops: Path, side: int) -> FolderData:
    """Writes the central 256 x 256 pixels of every test photograph, reduced to `side`, as PNG.

    Args:
      photographs: folder with `test` and `kodak`.
      crops: folder to fill; what is there already stays.
      side: of the crops, a divisor of 256.
    """
    crops.mkdir(parents=True, exist_ok=True)
    for part, first in zip(FOLDERS, (NUM_CHOSEN_ON, 0), strict=True):
        whole = FolderData(str(photographs / part), channels=3, crop=side, reduce=(256 // side,))
        source = whole.open()
        for index in range(first, len(source)):
            file = crops / f"{part}-{Path(source.name(index)).stem}.png"
            if not file.exists():
                Image.fromarray(source[index]).save(file)
    return FolderData(str(crops), channels=3)
