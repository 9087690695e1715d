"""Runs that are killed at random moments: do they end as if nothing had happened?

Training and sampling by the two programs, in one process and in two, of a small network on
synthetic images. Every run is killed (SIGKILL, all of its processes, one after the other)
several times, started again each time, and then left to end; weights, images and scores are
compared bit by bit with those of a run that nobody killed. What a run had kept when it was killed,
the step of its last checkpoint or the number of its finished batches, is written down: only kills
that find something kept, and something left to do, test more than the start of a program.

Command: python -m benchmarks.faults
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.reporting.record import earlier, record
from lavps_jax.config import cli
from lavps_jax.runs.loading import load_network

ROOT = Path(__file__).parents[1]

PRESET = """
from lavps_jax.config.settings import *
from lavps_jax.data import SyntheticData
from lavps_jax.networks import GlobalAttention, HDiTConfig, LevelConfig
from lavps_jax.operators.families import RandomPixels
from lavps_jax.samplers import DPS, MGDM

NETWORK = HDiTConfig(1, 1, 4, (LevelConfig(32, 2, GlobalAttention(16)),), 32, 1)
DATA = SyntheticData(64, (16, 16, 1))

def get_config():
    return {config}
"""
TRAIN = """TrainConfig(PriorTask(NETWORK), DATA, DATA, run_dir={out!r}, batch_size=16,
        num_train_steps=1500, checkpoint_every=50, validate_every=500, num_validation_images=8)"""
SAMPLE = """SampleConfig({prior!r}, DATA, RandomPixels(0.4, 0.6), MGDM(high_idx=30), {out!r},
        num_images=64, num_particles=4, batch_size=2, compare_with=(DPS(),))"""


@dataclass(frozen=True)
class Config:
    """What to measure."""

    kills: int = 20
    """Of training and of sampling, in one process and in two; at least 1."""
    kills_per_run: int = 4
    """At most; at least 1."""
    seed: int = 0
    """Of the moments."""
    out: str = "docs/results/faults.json"


class Job(NamedTuple):
    """A program that is started again and again, in some processes.

    Attributes:
      program: train.py or sample.py.
      config: its configuration, with {out!r} where the results go.
      result: what lies there in the end, relative to `out`.
      processes: how many.
    """

    program: str
    config: str
    result: str
    processes: int

    def start(self, out: Path) -> list[subprocess.Popen]:
        preset = out.with_suffix(".py")
        preset.write_text(PRESET.format(config=self.config.format(out=str(out))))
        flags: list[list[str]] = [[]]
        if self.processes > 1:
            common = ["--process-count", str(self.processes)]
            if self.program == "train.py":
                common += ["--coordinator", f"localhost:{free_port()}"]
            flags = [[*common, "--process-index", str(i)] for i in range(self.processes)]
        return [
            subprocess.Popen([sys.executable, self.program, preset, *some], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for some in flags
        ]  # fmt: skip


def finish(processes: list[subprocess.Popen]) -> None:
    """Waits for all of them; raises a RuntimeError if one fails."""
    said = [one.communicate()[0] for one in processes]
    if any(one.returncode for one in processes):
        raise RuntimeError("\n".join(said))


def kill(processes: list[subprocess.Popen], moment: float, first: int) -> bool:
    """SIGKILL after so many seconds, to the first one first; whether the job was still running."""
    time.sleep(moment)
    running = all(one.poll() is None for one in processes)
    for one in (processes[first], *processes):
        one.kill()
    for one in processes:
        one.communicate()
    return running


def kept(out: Path) -> int:
    """The step of the last checkpoint of a training run, or the number of batches of a sampling
    run."""
    steps = [int(one.name) for one in (out / "checkpoints").glob("*") if one.name.isdigit()]
    return max(steps, default=0) + len(list(out.with_name(f"{out.name}.job").glob("*.npz")))


def begin(job: Job, out: Path) -> tuple[float, float]:
    """Seconds until something is kept, and until the end, of a run that nobody disturbs."""
    start, first = time.perf_counter(), None
    processes = job.start(out)
    while any(one.poll() is None for one in processes):
        if first is None and kept(out):
            first = time.perf_counter() - start
        time.sleep(0.05)
    finish(processes)
    assert first is not None
    return first, time.perf_counter() - start


def contents(folder: Path) -> dict[str, bytes]:
    """What has to be the same: weights, scores without times, and images."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name == "card.json":
            card = json.loads(file.read_text())
            weights = jax.tree.leaves(load_network(str(file.parent))[1])
            found["weights"] = b"".join(np.asarray(one).tobytes() for one in weights)
            found[name] = json.dumps([card["weights"], card["validation"], card["step"]]).encode()
        elif file.name == "metrics.json":
            metrics = json.loads(file.read_text())
            for one in (metrics, *metrics["compared"]):
                del one["mean"]["seconds_per_image"]
            found[name] = json.dumps(metrics).encode()
        elif file.suffix == ".png":
            found[name] = file.read_bytes()
    return found


def measure(job: Job, config: Config, folder: Path, number: int) -> dict[str, Any]:
    """Kills runs of a job until there were enough kills, and compares what the runs make."""
    rng = np.random.default_rng([config.seed, number])
    first, whole = begin(job, folder / "whole")
    expected = contents(folder / "whole" / job.result)
    assert expected
    kills: list[dict[str, float]] = []
    equal = runs = 0
    while len(kills) < config.kills:
        out, runs = folder / f"run{runs}", runs + 1
        for _ in range(min(config.kills_per_run, config.kills - len(kills))):
            # What comes before is the start of the program, the same each time. A job goes on
            # after each kill, so that less than the whole is left of it.
            moment = float(rng.uniform(0.8 * first, 0.7 * first + 0.3 * whole))
            if not kill(job.start(out), moment, int(rng.integers(job.processes))):
                break
            kills.append({"after seconds": round(moment, 2), "kept": kept(out)})
        if not (out / job.result).exists() or job.program == "train.py":
            finish(job.start(out))
        equal += contents(out / job.result) == expected
        shutil.rmtree(out)
    return {
        "seconds until something is kept": first,
        "seconds of a whole run": whole,
        "kills": kills,
        "runs": runs,
        "equal to the whole run": equal,
    }


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def main(config: Config) -> None:
    earlier("out", config.out)
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = Job("train.py", TRAIN, "weights", 1)
        finish(train.start(folder / "prior"))
        prior = str(folder / "prior" / "weights")
        sample = Job("sample.py", SAMPLE.replace("{prior!r}", repr(prior)), ".", 1)
        jobs = [job._replace(processes=count) for job in (train, sample) for count in (1, 2)]
        for number, job in enumerate(jobs):
            name = f"{job.program}, {job.processes} processes"
            with tempfile.TemporaryDirectory() as one:
                found = measure(job, config, Path(one), number)
            late = sum(one["kept"] > 0 for one in found["kills"])
            print(f"{name}: {len(found['kills'])} kills, {late} of them after something was kept; "
                  f"{found['equal to the whole run']} of {found['runs']} runs end equal",
                  flush=True)  # fmt: skip
            results[name] = found
            record(config.out, results)


if __name__ == "__main__":
    cli.main(
        lambda arguments: main(
            cli.from_flags(Config, arguments, prog="python -m benchmarks.faults")
        )
    )
