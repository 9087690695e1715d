"""One sampling run: degrade, restore with each sampler, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console

from lavps_jax.config.settings import SampleConfig, to_json
from lavps_jax.distributed.environment import describe_code
from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import refuse_existing, write_directory
from lavps_jax.io.storage import AnyPath, as_path
from lavps_jax.metrics.lpips import lpips_enlarges
from lavps_jax.runs.prepare import Run, prepare, sums_of
from lavps_jax.runs.restoring import restore_batches
from lavps_jax.runs.sampling_job import Processes, SamplingJob, detect_processes, job_folder
from lavps_jax.runs.sampling_outputs import print_table, write_results


def run_sampling(
    config: SampleConfig,
    console: Console | None = None,
    *,
    devices: Sequence[Any] | None = None,
    scores: bool = True,
) -> AnyPath:
    """Restores the same measurements with every sampler and writes the results.

    metrics.json describes the run of `config.sampler`; those of `config.compare_with` have the
    same form and stand in its list "compared". An interrupted run leaves `out_dir`.job, from which
    the same call goes on. Every process measures, restores, scores and draws its own batches, one
    on each of its devices, or of `devices`, at a time; process 0 puts all together. Memory does not
    grow with the number of images, but for their names and scores. `scores` says whether to print
    the table of them, and how measurements and settings were understood.

    Raises:
      UserError: if a file, the data or a setting is unusable, or a sample is not finite. Nothing
        is written then.
    """
    console, devices = console or Console(), devices or jax.local_devices()
    processes = detect_processes(config.process_index, config.process_count)
    out = as_path(config.out_dir, "out_dir")
    if processes.index:
        refuse_existing(out, "samples", overwrite=config.overwrite)
        run, job = _begin(config, processes, console)
        try:
            restore_batches(run, job, console, devices)
        except UserError as error:
            job.write_mistake(error)
            raise
        console.print(f"process {processes.index} is done; process 0 writes the results")
        return out
    with write_directory(config.out_dir, "samples", overwrite=config.overwrite) as folder:
        run, job = _begin(config, processes, console if scores else Console(quiet=True))
        try:
            restore_batches(run, job, console, devices)
            metrics = write_results(
                folder, run, job, lambda: console.print("waiting for other processes")
            )
        except BaseException as error:
            # Samples that are not finite would be so again.
            recurs = isinstance(error, UserError) and error.field == "samples"
            if processes.count == 1 and (recurs or job.is_empty()):
                job.remove()
            else:
                kept = f"what is done is kept in {job.folder}: the same command goes on"
                console.print(kept, markup=False, soft_wrap=True)
            raise
        if scores:
            print_table(console, metrics, "A^+ y" if run.is_linear else "estimate")
        said = run.warnings if scores else ()
        for words in dict.fromkeys(words for one in metrics for words in one["warnings"]):
            if words not in said:
                console.print(f"warning: {words}", markup=False, soft_wrap=True)
        if scores and "psnr" in metrics[0]["mean"] and lpips_enlarges(run.measurements.image_shape):
            console.print("LPIPS: images enlarged to 64 pixels first.")
    job.remove()
    if config.observations is not None:
        console.print(f"restored: {out / 'restored'}", markup=False, soft_wrap=True)
    if scores:
        console.print(f"pictures: {out / 'contact_sheet.png'}", markup=False, soft_wrap=True)
    return out


def _begin(config: SampleConfig, processes: Processes, console: Console) -> tuple[Run, SamplingJob]:
    """Looks at what this process has to do, and claims the job of this very run: of these settings,
    measurements and weights."""
    job_folder(config.out_dir)  # Before anything is computed.
    run = prepare(config, console, processes)
    weights = sums_of((run.prior, list(run.samplers.values()))).tolist()
    identity = to_json(config) | {"weights": weights, "code": describe_code()}
    job = SamplingJob(
        config.out_dir, identity, processes, overwrite=config.overwrite, sums=run.sums
    )
    return run, job
