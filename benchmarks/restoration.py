"""LAVPS next to MGDM and DPS on test images of Fashion-MNIST, in distribution.

For each task: scores of all samplers and of A^+ y, the paired difference of LPIPS between LAVPS
and MGDM on the same images, its p-value, and the ratio of their times. Every task has its own file
of results.

Command: python -m benchmarks.restoration --data-dir DIR
(DIR from python tools/prepare_fashion_mnist.py --data-dir DIR; left out, it is where
tensorflow-datasets keeps its data)
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from rich.console import Console

from benchmarks.reporting.intervals import paired_interval, paired_p_value
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import SampleConfig, load_preset
from lavps_jax.data import TfdsData
from lavps_jax.runs.sampling import run_sampling

PRESETS = {
    "motion_blur": "configs/fashion_mnist.py",
    "super_resolution": "configs/fashion_mnist_super_resolution.py",
    "inpainting": "configs/fashion_mnist_inpainting.py",
}
"""By task; all of them share MGDM and DPS."""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    data_dir: str | None = None
    """Where Fashion-MNIST was prepared; None is tensorflow-datasets' own place."""
    tasks: tuple[str, ...] = tuple(PRESETS)
    num_images: int = 128
    num_particles: int = 1
    batch_size: int = 16
    out: str = "docs/results"
    """Folder of the results, restoration_TASK.json."""
    pictures: str = "outputs/restoration"


def task_config(config: Config, task: str) -> SampleConfig:
    """The task's preset on test images."""
    return dataclasses.replace(
        load_preset(PRESETS[task]),
        # Training validates on the first images.
        data=TfdsData("fashion_mnist", "test[1000:]", data_dir=config.data_dir, pad_to=32),
        num_images=config.num_images,
        num_particles=config.num_particles,
        batch_size=config.batch_size,
        out_dir=f"{config.pictures}/{task}",
        overwrite=True,
    )


def main(config: Config) -> None:
    console = Console()
    for task in config.tasks:
        earlier("out", f"{config.out}/restoration_{task}.json")
    for task in config.tasks:
        console.print(f"[bold]{task}")
        folder = run_sampling(task_config(config, task), console)
        settings, metrics = (
            json.loads((folder / name).read_text()) for name in ("config.json", "metrics.json")
        )
        samplers = {one["sampler"]: one for one in [metrics, *metrics["compared"]]}
        lavps, mgdm = samplers["lavps"], samplers["mgdm"]
        times = [one["mean"]["seconds_per_image"] for one in (lavps, mgdm)]
        rows = (lavps["per_image"], mgdm["per_image"])
        difference = paired_interval(*rows, "lpips_alex")
        found = {
            "task": task,
            "config": settings | {"data": settings["data"] | {"data_dir": "DIR"}},
            "baseline": metrics["baseline"],
            "samplers": {name: one["mean"] for name, one in samplers.items()},
            "lpips_lavps_minus_mgdm": difference._asdict(),
            "p_value": paired_p_value(*rows, "lpips_alex"),  # Of this task alone.
            "time_lavps_over_mgdm": times[0] / times[1],
        }
        console.print(difference, found["time_lavps_over_mgdm"])
        record(f"{config.out}/restoration_{task}.json", found)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.restoration")
        )
    )
