"""Restores the measurements of a run batch by batch, with every sampler, and says how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lavps_jax.config.settings import SampleConfig
from lavps_jax.distributed.memory import check_memory, required_bytes
from lavps_jax.errors import UserError
from lavps_jax.runs.measurements import Measured, run_keys
from lavps_jax.runs.sampling_job import Batch, SamplingJob
from lavps_jax.runs.sampling_outputs import Restored
from lavps_jax.samplers import Sampler
from lavps_jax.samplers.stepwise import Given, Turn, compile_steps
from lavps_jax.types import Params

__all__ = ["check_finite", "restore_all"]

Samplers = Mapping[str, tuple[Sampler, Params]]


def restore_all(
    config: SampleConfig,
    measured: Measured,
    samplers: Samplers,
    job: SamplingJob,
    console: Console,
    devices: Sequence[Any],
) -> list[Restored]:
    """Every sampler in turn; what other processes did is waited for by process 0 alone.

    Raises:
      UserError: if it does not fit the memory, or a sample is not finite.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps,"),
        TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    # A step of a large network can take longer than the half minute that speed is measured over.
    with Progress(
        *columns, console=console, refresh_per_second=1, speed_estimate_period=3600
    ) as progress:
        for name, (sampler, params) in samplers.items():
            _restore(config, measured, job, progress, name, sampler, params, devices)
    if job.processes.index:
        return []
    size = min(config.batch_size, len(measured.names))
    count = math.ceil(len(measured.names) / size)
    restored = []
    for name, (sampler, _) in samplers.items():
        batches = job.collect(
            name, range(count), lambda: console.print("waiting for other processes")
        )
        samples = np.concatenate([batch.samples for batch in batches])
        seconds = sum(batch.seconds for batch in batches) / (count * size)
        memory = max(batch.memory for batch in batches)
        restored.append(Restored(name, samples, seconds, sampler.cost(), memory))
    return restored


def _restore(
    config: SampleConfig,
    measured: Measured,
    job: SamplingJob,
    progress: Progress,
    name: str,
    sampler: Sampler,
    params: Params,
    devices: Sequence[Any],
) -> None:
    """This process's batches that the job does not have, as many at once as it has devices; a time
    is that of a compiled batch on one of them."""
    count = len(measured.names)
    size = min(config.batch_size, count)
    mine = [k for k in range(math.ceil(count / size)) if job.processes.does(k)]
    missing = [k for k in mine if job.read(name, k) is None]
    if len(missing) < len(mine):
        done = len(mine) - len(missing)
        progress.console.print(f"{name}: {done} of {len(mine)} batches were done before")
    if not missing:
        return
    # Each device has the same program compiled for itself: one program that is spread over all of
    # them would round differently on another number of devices.
    devices = devices[: len(missing)]
    rng_key, plan = run_keys(config.seed).sampling, sampler.plan()
    fixed = [jax.device_put((rng_key, params, plan), device) for device in devices]
    bar = progress.add_task(f"{name} (compiling)", total=None)

    def arguments(batch: int, k: int) -> Given:
        # The last batch is filled up with repeats, so that one program does all.
        rows = np.minimum(np.arange(batch * size, (batch + 1) * size), count - 1)
        given = measured.seeds[rows], jax.tree.map(lambda leaf: leaf[rows], measured.problems)
        index, problems = jax.device_put(given, devices[k])
        key, weights, times = fixed[k]
        return Given(key, index, weights, problems, times)

    with ThreadPoolExecutor() as pool:
        given = [arguments(missing[0], k) for k in range(len(devices))]
        programs = compile_steps(sampler, config.num_particles, given, pool)
    height, width, _ = measured.image_shape
    largest = max(programs[0].all(), key=lambda one: required_bytes(one) or 0)
    check_memory(
        largest,
        "batch_size, num_particles",
        f"{size} images x {config.num_particles} particles of {height} x {width} pixels",
        _less_memory(config, size),
    )
    memory = required_bytes(largest) or 0
    rounds = [missing[k : k + len(devices)] for k in range(0, len(missing), len(devices))]
    turns = 1 + sum(len(jax.tree.leaves(segment.rows)[0]) for segment in plan)
    progress.reset(bar, description=name, total=turns * len(rounds))
    pace = _Pace()
    for batches in rounds:
        given = [arguments(batch, k) for k, batch in enumerate(batches)]
        start = time.perf_counter()
        running = [one.run(given[k], pace.steps) for k, one in enumerate(programs[: len(batches)])]
        found: list[tuple[Turn, ...]] = []
        for turns in zip(*running, strict=True):
            # Those before: while they are waited for, the devices have work.
            if found:
                _wait(found, progress, bar)
                pace.tell(time.perf_counter())
            found.append(turns)
        seconds = [time.perf_counter() - start for _ in map(jax.block_until_ready, found[-1])]
        _wait(found, progress, bar)
        for k, (batch, spent) in enumerate(zip(batches, seconds, strict=True)):
            x_0 = np.asarray(found[-1][k].result)
            check_finite([turns[k] for turns in found], name, measured.names[batch * size :])
            job.write(name, batch, Batch(x_0[: count - batch * size], spent, memory))


class _Pace:
    """How many steps go into a piece: as many as take about half a second."""

    def __init__(self):
        self._steps, self._last = 1, -math.inf

    def steps(self) -> int:
        """Of the next piece."""
        return self._steps

    def tell(self, now: float) -> None:
        """A piece is done."""
        if now - self._last < 0.25:
            self._steps *= 2
        elif now - self._last > 1:
            self._steps = max(1, self._steps // 2)
        self._last = now


def _wait(found: list[tuple[Turn, ...]], progress: Progress, bar: TaskID) -> None:
    """Until the last turn of all devices is done, which is shown."""
    jax.block_until_ready([turn.result for turn in found[-1]])
    progress.update(bar, advance=found[-1][0].end - (found[-2][0].end if len(found) > 1 else 0))


def _less_memory(config: SampleConfig, batch_size: int) -> str:
    """What a user can change so that a program of `batch_size` images needs less memory."""
    ways = [f"lower {name}" for name, one in
            (("batch_size", batch_size), ("num_particles", config.num_particles))
            if one > 1]  # fmt: skip
    if config.tile is None:
        ways.append("evaluate the networks on parts of the image with --tile SIDE")
    if config.compute_dtype == "float32":
        ways.append("compute with --compute-dtype bfloat16")
    return ", or ".join(ways) or "give smaller images, or take a device with more memory"


def check_finite(turns: Sequence[Turn], sampler: str, names: Sequence[str]) -> None:
    """Raises a UserError if a state or a sample is not finite; `names` are those of the images."""
    *steps, (num_steps, x_0) = turns
    finite = np.all(np.isfinite(x_0), axis=(2, 3, 4))
    finite_steps = np.where(finite, num_steps, num_steps - 1)
    # The first piece with a fault says where it was.
    for end, before in reversed(steps):
        finite_steps = np.where(np.asarray(before) < end, before, finite_steps)
    if not np.all(finite_steps == num_steps):
        image, particle = np.argwhere(finite_steps < num_steps)[0]
        step = finite_steps[image, particle]
        where = f"{sampler}, {names[min(image, len(names) - 1)]}, particle {particle}, step {step}"
        raise UserError("samples", f"values that are not finite ({where})",
                        "lower learning_rate or step_size")  # fmt: skip
