"""Restores the measurements of a run batch by batch, with every sampler, and says how far it is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
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
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.distributed.memory import check_memory, required_bytes
from lavps_jax.errors import UserError
from lavps_jax.runs.measurements import Measured, run_keys
from lavps_jax.runs.prepare import Run
from lavps_jax.runs.sampling_job import MEASURED, SamplingJob
from lavps_jax.runs.sampling_outputs import measured_batch, restored_batch
from lavps_jax.samplers.stepwise import Given, Piece, StepPrograms, compile_steps
from lavps_jax.types import PRNGKey


def restore_batches(run: Run, job: SamplingJob, console: Console, devices: Sequence[Any]) -> None:
    """Measures, restores with every sampler and scores the batches of this process that the job
    does not have, as many at once as there are devices, and writes them to the job.

    Raises:
      UserError: if it does not fit the memory, or a sample is not finite.
    """
    names, batches = (MEASURED, *run.samplers), list(run.sums)
    missing = {k: [name for name in names if job.read(name, k) is None] for k in batches}
    for name in run.samplers:
        if done := sum(name not in some for some in missing.values()):
            console.print(f"{name}: {done} of {len(batches)} batches were done before")
    todo = [k for k in batches if missing[k]]
    if not todo:
        return
    devices = devices[: len(todo)]
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps,"),
        TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"),
    )  # fmt: skip
    # A step of a large network can take longer than the half minute that speed is measured over.
    with Progress(
        *columns, console=console, refresh_per_second=1, speed_estimate_period=3600
    ) as progress:
        bar = progress.add_task("compiling", total=None)
        first = run.measured(todo[0])
        priors = [jax.device_put(run.prior, device) for device in devices]
        compiled = {
            name: _compile(run, name, first, devices, priors)
            for name in run.samplers
            if any(name in some for some in missing.values())
        }
        rounds = [todo[k : k + len(devices)] for k in range(0, len(todo), len(devices))]
        shares = [{name: [k for k in some if name in missing[k]] for name in names}
                  for some in rounds]  # fmt: skip
        steps = [compiled[name].num_steps for share in shares for name in compiled if share[name]]
        progress.reset(bar, total=sum(steps))
        paces = {name: _Pace(progress, bar) for name in compiled}
        for some, share in zip(rounds, shares, strict=True):
            measured = {k: run.measured(k) for k in some}
            for k in share[MEASURED]:
                job.write(MEASURED, k, measured_batch(run, k, measured[k]))
            for name, programs in compiled.items():
                progress.update(bar, description=name)
                found = _restore(name, programs, [measured[k] for k in share[name]], paces[name])
                for k, (x_0, seconds) in zip(share[name], found, strict=True):
                    facts = {"seconds": seconds, "memory": programs.memory}
                    job.write(name, k, restored_batch(run, k, measured[k], name, x_0, facts))


class _Compiled(NamedTuple):
    """A sampler, compiled for each of some devices: one program that is spread over all of them
    would round differently on another number of devices.

    Attributes:
      programs: one for each device.
      fixed: key, sampler, prior and plan on each device.
      devices: the same ones, in order.
      size: measurements at a time.
      num_steps: of one batch, the last prediction included.
      memory: bytes that a device needs; 0: not known.
    """

    programs: list[StepPrograms]
    fixed: list[tuple[Any, Any, Any, Any]]
    devices: Sequence[Any]
    size: int
    num_steps: int
    memory: int

    def given(self, k: int, measured: Measured, first: int) -> Given:
        """What device k is given of a batch, from one of its measurements on."""
        rows = slice(first, first + self.size)
        some = measured.seeds[rows], jax.tree.map(lambda leaf: leaf[rows], measured.problems)
        seeds, problems = jax.device_put(some, self.devices[k])
        key, sampler, prior, plan = self.fixed[k]
        return Given(_folded(key, seeds), sampler, prior, problems, plan)


@jax.jit
def _folded(rng_key: PRNGKey, seeds: Array) -> PRNGKey:
    """One key per measurement."""
    return jax.vmap(lambda seed: jax.random.fold_in(rng_key, seed))(seeds)


def _compile(
    run: Run, name: str, measured: Measured, devices: Sequence[Any], priors: Sequence[Denoiser]
) -> _Compiled:
    """Raises a UserError if a program does not fit the memory."""
    config, whole = run.config, run.measurements.size
    size = whole if whole <= config.batch_size else 1  # A picture of several measurements.
    sampler, key = run.samplers[name], run_keys(config.seed).sampling
    plan = sampler.plan(run.prior.schedule)
    fixed = []
    for device, prior in zip(devices, priors, strict=True):
        on_device = jax.device_put((key, sampler, plan), device)
        fixed.append((*on_device[:2], prior, on_device[2]))
    steps = 1 + sum(len(jax.tree.leaves(segment.rows)[0]) for segment in plan)
    compiled = _Compiled([], fixed, devices, size, steps * (whole // size), 0)
    given = [compiled.given(k, measured, 0) for k in range(len(devices))]
    with ThreadPoolExecutor() as pool:
        programs = compile_steps(config.num_particles, given, pool)
    height, width, _ = run.measurements.image_shape
    largest = max(programs[0].all(), key=lambda one: required_bytes(one) or 0)
    check_memory(
        largest,
        "batch_size, num_particles",
        f"{size} images x {config.num_particles} particles of {height} x {width} pixels",
        _less_memory(config, size),
    )
    return compiled._replace(programs=programs, memory=required_bytes(largest) or 0)


def _restore(
    name: str, compiled: _Compiled, batches: Sequence[Measured], pace: _Pace
) -> list[tuple[np.ndarray, float]]:
    """Samples of batches, one on each device, and the seconds that they took: those of compiled
    programs.

    Raises:
      UserError: if a sample is not finite.
    """
    results = [([], []) for _ in batches]
    for first in range(0, len(batches[0].seeds) if batches else 0, compiled.size):
        given = [compiled.given(k, measured, first) for k, measured in enumerate(batches)]
        start = time.perf_counter()
        running = [compiled.programs[k].run(one, pace.steps) for k, one in enumerate(given)]
        found: list[tuple[Piece, ...]] = []
        for pieces in zip(*running, strict=True):
            # Those before: while they are waited for, the devices have work.
            if found:
                pace.wait(found)
            found.append(pieces)
        seconds = []
        for piece in found[-1]:  # In order: a device's time includes waiting for those before it.
            jax.block_until_ready(piece.result)
            seconds.append(time.perf_counter() - start)
        pace.wait(found)
        for k, measured in enumerate(batches):
            check_finite([pieces[k] for pieces in found], name, measured.names[first:])
            results[k][0].append(np.asarray(found[-1][k].result))
            results[k][1].append(seconds[k])
    return [(np.concatenate(samples), sum(seconds)) for samples, seconds in results]


class _Pace:
    """How many steps go into a piece: as many as take about half a second. Shows what is done."""

    def __init__(self, progress: Progress, bar: TaskID):
        self._progress, self._bar = progress, bar
        self._steps, self._last = 1, -math.inf

    def steps(self) -> int:
        """Of the next piece."""
        return self._steps

    def wait(self, found: Sequence[tuple[Piece, ...]]) -> None:
        """Until the last piece of all devices is done."""
        jax.block_until_ready([piece.result for piece in found[-1]])
        before = found[-2][0].end if len(found) > 1 else 0
        self._progress.update(self._bar, advance=found[-1][0].end - before)
        now = time.perf_counter()
        if now - self._last < 0.25:
            self._steps *= 2
        elif now - self._last > 1:
            self._steps = max(1, self._steps // 2)
        self._last = now


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


def check_finite(pieces: Sequence[Piece], sampler: str, names: Sequence[str]) -> None:
    """Raises a UserError if a state or a sample is not finite; `names` are those of the images."""
    *steps, (num_steps, x_0) = pieces
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
