"""How much memory a sampling run of many images needs, next to one of few.

DPS with 4 steps and one particle by `sample.py`, with a small untrained network on synthetic colour
images. The peak is that of the program's process (`ru_maxrss`, which is VmHWM), with what Python,
JAX and the compiler take.

Command: python -m benchmarks.run_memory
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from flax import nnx

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import PriorTask, TrainConfig, to_json
from lavps_jax.data import SyntheticData
from lavps_jax.io.weights import export_weights
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig, split

ROOT = Path(__file__).parents[1]
NETWORK = HDiTConfig(3, 3, 4, (LevelConfig(16, 1, GlobalAttention(8)),), 16, 1)
PRESET = """
from lavps_jax.config.settings import *
from lavps_jax.data import SyntheticData
from lavps_jax.operators.families import RandomPixels
from lavps_jax.samplers import DPS

def get_config():
    return SampleConfig({prior!r}, SyntheticData({images}, {shape}), RandomPixels(0.4, 0.6),
        DPS(num_steps=4), {out!r}, num_images={images}, num_particles=1,
        batch_size={batch_size})
"""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    images: tuple[int, ...] = (40, 4000)
    side: int = 32
    """Of the images; a multiple of 4."""
    batch_size: int = 16
    out: str = "docs/results/run_memory.json"


def measure(prior: Path, images: int, config: Config, folder: Path) -> dict[str, float]:
    """Peak memory and time of one run.

    Raises:
      RuntimeError: if it fails.
    """
    preset = folder / f"{images}.py"
    out, shape = str(folder / str(images)), (config.side, config.side, 3)
    preset.write_text(
        PRESET.format(
            prior=str(prior), images=images, shape=shape, out=out, batch_size=config.batch_size
        )
    )
    start = time.perf_counter()
    command = [sys.executable, "sample.py", str(preset)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"sample.py ended with code {process.returncode}")
    seconds = time.perf_counter() - start
    return {"images": images, "peak MB": usage.ru_maxrss * 1024 / 1e6, "seconds": seconds}


def main(config: Config) -> None:
    earlier("out", config.out)
    with tempfile.TemporaryDirectory() as name:
        folder, prior = Path(name), Path(name) / "prior"
        trained = TrainConfig(PriorTask(NETWORK), SyntheticData(), SyntheticData(), run_dir="none")
        weights = split(NETWORK.build(nnx.Rngs(0)))[1]
        export_weights(prior, weights, {"config": to_json(trained)})
        found = []
        for images in config.images:
            found.append(measure(prior, images, config, folder))
            print(found[-1], flush=True)
    record(config.out, found)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.run_memory")
        )
    )
