"""Time and peak memory of converting checkpoints in the published shapes, of random numbers.

Needs the extra convert, and the disk space of three such checkpoints.

Command: python -m benchmarks.conversion
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.config.settings import load_preset
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.io.published import published_prefix, to_published
from lavps_jax.networks import split

ROOT = Path(__file__).parents[1]

# Not ru_maxrss, which begins with that of the parent.
CONVERT = """
import sys
from lavps_jax import convert
convert.run(sys.argv[1:])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    presets: tuple[str, ...] = ("configs/ffhq256_prior.py", "configs/imagenet256_prior.py")
    out: str = "docs/results/conversion.json"


def write_checkpoint(preset: str, path: Path) -> None:
    """What PyTorch would have written of the preset's network."""
    import torch  # Of the extra `convert`, which the others of these programs do without.

    config: Any = load_preset(preset)
    _, weights = split(nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    filled = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), weights)
    prefix = published_prefix(config.schedule, config.task.network, EDM())
    state = to_published(filled, prefix)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
    torch.save({"ema": tensors}, path)


def measure(preset: str, folder: Path) -> dict[str, float]:
    """Of one conversion in a process of its own."""
    source, out = folder / "network.pt", folder / "weights"
    write_checkpoint(preset, source)
    command = [sys.executable, "-c", CONVERT, source, out, "--preset", preset]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    size, peak = source.stat().st_size, 1024 * int(done.stdout.split()[-1])
    return {"file_bytes": size, "peak_bytes": peak, "ratio": peak / size, "seconds": seconds}


def main(config: Config) -> None:
    jax.config.update("jax_platforms", "cpu")
    results = {}
    earlier("out", config.out)
    for preset in config.presets:
        with tempfile.TemporaryDirectory() as folder:
            found = results[preset] = measure(preset, Path(folder))
        file, peak = found["file_bytes"] / 1e9, found["peak_bytes"] / 1e9
        print(f"{preset}: {file:.2f} GB, peak {peak:.2f} GB ({found['ratio']:.2f} times), "
              f"{found['seconds']:.0f} s")  # fmt: skip
    record(config.out, results)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.conversion")
        )
    )
