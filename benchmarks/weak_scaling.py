"""One process, and two with twice the work: how much is lost?

Each process has one core of this machine, so that a second one is a second machine as far as
arithmetic goes; they share its memory, and their gradients go over its loopback. Training has the
same number of images for a process (throughput from log.csv, its median), sampling the same number
of batches (images over the time that a process spends on them; what compiling takes, and process 0
for collecting the batches, is left out).

Command: python -m benchmarks.weak_scaling
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.faults import PRESET, ROOT, finish, free_port
from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.errors import UserError, check_at_least

IMAGES = 16
"""Of a batch, for each process."""
PRIOR = "pretrained/fashion_mnist/prior"
TRAIN = """TrainConfig(load_preset("configs/fashion_mnist_prior.py").task,
        SyntheticData(256, (32, 32, 1)), SyntheticData(16, (32, 32, 1)), run_dir={out!r},
        batch_size={images}, num_train_steps={amount}, log_every=5, validate_every=10**6,
        checkpoint_every=10**6, num_validation_images=8)"""
SAMPLE = """SampleConfig({prior!r}, SyntheticData(256, (32, 32, 1)), RandomPixels(0.4, 0.6),
        DPS(num_steps=50), {out!r}, num_images={amount}, num_particles=1, batch_size=4)"""


@dataclass(frozen=True)
class Config:
    """How much to measure."""

    steps: int = 80
    """Of training."""
    batches: int = 6
    """Of sampling, for each process."""
    repeats: int = 3
    """The best of so many runs counts: other programs only ever slow one down."""
    out: str = "docs/results/weak_scaling.json"


def run(program: str, config: str, folder: Path, count: int) -> None:
    """The program in `count` processes, each on a core of its own, to its end."""
    preset = folder / "preset.py"
    preset.write_text(PRESET.format(config=config))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise UserError("cores", len(cores), f"run it where there are {count}")
    flags: list[list[str]] = [[]]
    if count > 1:
        common = ["--process-count", str(count)]
        if program == "train.py":
            common += ["--coordinator", f"localhost:{free_port()}"]
        flags = [[*common, "--process-index", str(i)] for i in range(count)]
    processes = []
    try:
        for core, some in zip(cores, flags, strict=False):
            os.sched_setaffinity(0, {core})  # The process inherits it.
            command = [sys.executable, program, str(preset), *some]
            processes.append(
                subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
            )  # fmt: skip
    finally:
        os.sched_setaffinity(0, cores)
    finish(processes)


def training(config: Config, folder: Path, count: int) -> float:
    """Images per second."""
    text = TRAIN.format(out=str(folder / "run"), images=IMAGES * count, amount=config.steps)
    run("train.py", text, folder, count)
    rows = csv.DictReader((folder / "run" / "log.csv").open())
    speeds = [float(row["value"]) for row in rows if row["name"] == "images_per_second"]
    return statistics.median(speeds[2:])


def sampling(config: Config, folder: Path, count: int) -> float:
    """Images per second, of all processes."""
    out, images = folder / "out", 4 * config.batches * count
    run("sample.py", SAMPLE.format(prior=PRIOR, out=str(out), amount=images), folder, count)
    mean = json.loads((out / "metrics.json").read_text())["mean"]
    return count / mean["seconds_per_image"]


def measure(one: Callable[[Config, Path, int], float], config: Config) -> dict[str, object]:
    """The best throughput of one and of two processes, in turns."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(config.repeats):
        for count, speeds in found.items():
            with tempfile.TemporaryDirectory() as folder:
                speeds.append(one(config, Path(folder), count))
    best = {count: float(np.max(speeds)) for count, speeds in found.items()}
    return {"images per second": found, "efficiency": best[2] / (2 * best[1])}


def main(config: Config) -> None:
    check_at_least("steps", config.steps, 20)
    check_at_least("batches", config.batches, 1)
    check_at_least("repeats", config.repeats, 1)
    earlier("out", config.out)
    results = {}
    for one in (training, sampling):
        results[one.__name__] = measure(one, config)
        record(config.out, results)
        print(f"{one.__name__}: {results[one.__name__]}", flush=True)


if __name__ == "__main__":
    prog = "python -m benchmarks.weak_scaling"
    cli.main(lambda arguments: main(cli.from_flags(Config, arguments, prog=prog)))
