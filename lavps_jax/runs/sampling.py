"""One sampling run: degrade, restore with each sampler, measure, write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lavps_jax.config.settings import (
    LAVPSConfig,
    OneStepConfig,
    SampleConfig,
    SamplerConfig,
    SupervisedConfig,
    to_json,
)
from lavps_jax.distributed.environment import describe_code
from lavps_jax.errors import UserError
from lavps_jax.io.checksums import checksums
from lavps_jax.io.own_folders import refuse_existing, write_directory
from lavps_jax.io.storage import AnyPath, as_path
from lavps_jax.metrics.lpips import LPIPSNet, lpips_enlarges
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.likelihoods import log_likelihood
from lavps_jax.runs.build import build_sampler, check_tile, is_trained_on, load_prior, network_shape
from lavps_jax.runs.given_measurements import load_measurements
from lavps_jax.runs.measurements import (
    Measured,
    in_batches,
    simulate_measurements,
    with_classes,
)
from lavps_jax.runs.restoring import restore_all
from lavps_jax.runs.sampling_job import Processes, SamplingJob, detect_processes, job_folder
from lavps_jax.runs.sampling_outputs import Restored, print_table, write_results
from lavps_jax.runs.scores import ensemble_scores, finite_mean, fit_warnings, sample_scores
from lavps_jax.samplers import Sampler
from lavps_jax.samplers.starts import BestOf
from lavps_jax.types import Params

__all__ = ["run_sampling"]


def run_sampling(
    config: SampleConfig,
    console: Console | None = None,
    *,
    devices: Sequence[Any] | None = None,
) -> AnyPath:
    """Restores the same measurements with every sampler and writes the results.

    metrics.json describes the run of `config.sampler`; those of `config.compare_with` have the
    same form and stand in its list "compared". An interrupted run leaves `out_dir`.job, from which
    the same call goes on. Of several processes the first one writes the results. Every device of
    this process, or of `devices`, restores a batch at a time.

    Raises:
      UserError: if a file, the data or a setting is unusable, or a sample is not finite. Nothing
        is written then.
    """
    console, devices = console or Console(), devices or jax.local_devices()
    processes = detect_processes(config.process_index, config.process_count)
    if processes.index:
        out = as_path(config.out_dir, "out_dir")
        refuse_existing(out, "samples", overwrite=config.overwrite)
        job_folder(config.out_dir)
        run = _prepare(config, console)
        job = _claim_job(config, run, processes)
        try:
            restore_all(config, run.measured, run.samplers, job, console, devices)
        except UserError as error:
            job.write_mistake(error)
            raise
        console.print(f"process {processes.index} is done; process 0 writes the results")
        return as_path(config.out_dir, "out_dir")
    with write_directory(config.out_dir, "samples", overwrite=config.overwrite) as folder:
        job_folder(config.out_dir)  # Before anything is computed.
        run = _prepare(config, console)
        measured = run.measured
        naive = _naive(measured, config.batch_size)[:, None]
        baseline = sample_scores(naive, measured, _lpips_nets(config))
        job = _claim_job(config, run, processes)
        try:
            restored = restore_all(config, run.measured, run.samplers, job, console, devices)
        except BaseException as error:
            # Samples that are not finite would be so again.
            recurs = isinstance(error, UserError) and error.field == "samples"
            if processes.count == 1 and (recurs or job.is_empty()):
                job.remove()
            else:
                kept = f"what is done is kept in {job.folder}: the same command goes on"
                console.print(kept, markup=False, soft_wrap=True)
            raise
        metrics = [_metrics(config, measured, one, baseline, run.warnings) for one in restored]
        write_results(folder, config, measured, restored, metrics)
        linear = isinstance(measured.problems.operator, LinearOperator)
        print_table(console, metrics, "A^+ y" if linear else "estimate")
        for words in dict.fromkeys(words for one in metrics for words in one["warnings"]):
            if words not in run.warnings:  # Those were said at the start.
                console.print(f"warning: {words}", markup=False, soft_wrap=True)
        if measured.x_0 is not None and lpips_enlarges(measured.image_shape):
            console.print("LPIPS: images enlarged to 64 pixels first.")
    job.remove()
    out = as_path(config.out_dir, "out_dir")
    if measured.files or config.observations is not None:
        console.print(f"restored: {out / 'restored'}", markup=False, soft_wrap=True)
    console.print(f"pictures: {out / 'contact_sheet.png'}", markup=False, soft_wrap=True)
    return out


class _Run(NamedTuple):
    """What is restored, and by which samplers with which weights, by name."""

    measured: Measured
    samplers: dict[str, tuple[Sampler, Params]]
    warnings: list[str]


def _prepare(config: SampleConfig, console: Console) -> _Run:
    """Measurements and samplers, checked; see `run_sampling` for errors."""
    takes = network_shape(config.prior)
    if config.observations is None:
        measured = simulate_measurements(config)
    else:
        measured = load_measurements(config, takes)
        for note in measured.notes:
            console.print(note, markup=False, soft_wrap=True)
    measured = with_classes(measured, config.class_label, takes.num_classes)
    _check_gradients(measured, config.batch_size)
    height, width, _ = measured.image_shape
    side = takes.trained_side
    warnings = []
    if config.tile is None and side is not None and max(height, width) > side:
        warnings.append(
            f"The prior was trained on images of {side} pixels, these are {height} x {width}: "
            f"--tile {side} evaluates it on parts of that size."
        )
    if len(measured.names) > len(measured.files) > 0:
        warnings.append(
            "The prior knows grey images alone: the channels of the colour image are restored one "
            "by one, and what it knows may have nothing to do with them."
        )
    for words in warnings:
        console.print(f"warning: {words}", markup=False, soft_wrap=True)
    if config.sigma_y == "estimate" and config.poisson_peak is None:
        found = np.asarray(measured.problems.sigma_y)
        shown = " to ".join(dict.fromkeys(f"{one:.3g}" for one in (found.min(), found.max())))
        console.print(f"sigma_y, estimated: {shown}")
    if config.tile is not None:
        check_tile(config.tile, takes.multiple, takes.smallest)
    tiles = None if config.tile is None else Tiles(config.tile, config.tile_overlap)
    source = {} if config.observations else {"data": config.data}
    prior, theta = load_prior(
        config.prior, measured.image_shape, tiles, config.compute_dtype, **source
    )
    samplers = (config.sampler, *(config.compare_with if config.compare else ()))
    # The operators of given measurements may be any of their kind, and starts are learned
    # without classes.
    known = config.observations is None and config.class_label is None
    operator = config.operator if known else None
    sigma_y = None if config.sigma_y == "estimate" else config.sigma_y
    if config.poisson_peak is not None:
        sigma_y = None
    built = [
        build_sampler(
            sampler, prior, theta, measured.image_shape,
            operator=operator, sigma_y=sigma_y, tiles=tiles, compute_dtype=config.compute_dtype,
        )
        for sampler in samplers
    ]  # fmt: skip
    _check_problems(measured, [sampler for sampler, _ in built])
    names = _names(samplers)
    for name, one, (sampler, _) in zip(names, samplers, built, strict=True):
        if isinstance(one, LAVPSConfig) and one.best_of is None and _compares(sampler):
            console.print(
                f"{name}: its network was trained on another operator or sigma_y, or that is not "
                "known (given measurements, classes): starts are compared with zero-shot ones, "
                "which takes longer; --sampler.best-of False if it is the right network."
            )
        network = one.denoiser if isinstance(one, SupervisedConfig) else None
        network = one.generator if isinstance(one, OneStepConfig) else network
        if network is not None and not is_trained_on(network, operator, sigma_y):
            console.print(
                f"{name}: its network was trained on another operator or sigma_y, or may have "
                "been; it has no likelihood, so that its samples may not fit the measurement."
            )
    return _Run(measured, dict(zip(names, built, strict=True)), warnings)


def _claim_job(config: SampleConfig, run: _Run, processes: Processes) -> SamplingJob:
    """The job of this very run: of these settings, measurements and weights."""
    used = (run.measured.problems, [params for _, params in run.samplers.values()])
    leaves = {f"{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(used))}
    sums = [int(one) for one in checksums(leaves)]
    identity = to_json(config) | {"measurements and weights": sums, "code": describe_code()}
    return SamplingJob(config.out_dir, identity, processes, overwrite=config.overwrite)


def _check_gradients(measured: Measured, batch_size: int) -> None:
    """Raises a UserError if a likelihood has no finite gradient where sampling will begin."""

    def finite(problem):
        gradient = jax.grad(lambda x: log_likelihood(problem, x))
        images = (problem.x_pinv, jnp.zeros_like(problem.x_pinv), -jnp.ones_like(problem.x_pinv))
        return jnp.stack([jnp.all(jnp.isfinite(gradient(x))) for x in images]).all()

    found = np.asarray(in_batches(jax.jit(jax.vmap(finite)), batch_size, measured.problems))
    if not found.all():
        operator = type(measured.problems.operator).__name__
        name = measured.names[int(np.argmin(found))]
        remedy = "mend its forward: check_operator of lavps_jax.testing says where"
        raise UserError("operator", f"{operator} without a finite gradient ({name})", remedy)


def _check_problems(measured: Measured, samplers: Sequence[Sampler]) -> None:
    """Raises a UserError if one of the samplers cannot take the measurements."""

    def check(problem):
        for sampler in samplers:
            sampler.check(problem)
        return problem.sigma_y

    jax.eval_shape(jax.vmap(check), measured.problems)


def _naive(measured: Measured, batch_size: int) -> np.ndarray:
    """What samplers must beat, (B, H, W, C): A^+ y, or an estimate where A is not linear."""

    def one(problem):
        operator = problem.operator
        linear = isinstance(operator, LinearOperator)
        return operator.pinv(problem.y) if linear else problem.x_pinv

    return np.asarray(in_batches(jax.jit(jax.vmap(one)), batch_size, measured.problems))


def _lpips_nets(config: SampleConfig) -> tuple[LPIPSNet, ...]:
    return ("alexnet", "vgg16") if config.lpips_vgg else ("alexnet",)


def _names(samplers: Sequence[SamplerConfig]) -> list[str]:
    """One name per sampler, as in files and tables: the method, numbered from its second on."""
    methods = [_method(sampler) for sampler in samplers]
    counts = [methods[: i + 1].count(method) for i, method in enumerate(methods)]
    return [m if k == 1 else f"{m}_{k}" for m, k in zip(methods, counts, strict=True)]


def _method(config: SamplerConfig) -> str:
    return type(config).__name__.removesuffix("Config").lower()


def _compares(sampler: Any) -> bool:
    """Whether LAVPS compares starts at the low-noise end."""
    return isinstance(sampler.inner_low_noise.start, BestOf)


def _metrics(
    config: SampleConfig,
    measured: Measured,
    restored: Restored,
    baseline: dict[str, np.ndarray],
    warnings: list[str],
) -> dict[str, Any]:
    """The contents of metrics.json: `sample_scores` of an image, means over its particles, and
    `ensemble_scores`. Means leave out what is infinite, such as the PSNR of an exact sample; how
    much that is stands in "infinite"."""
    table = sample_scores(restored.samples, measured, _lpips_nets(config))
    table |= ensemble_scores(restored.samples, measured)
    cost, known = restored.cost, [{} for _ in measured.names]
    if config.sigma_y == "estimate" and config.poisson_peak is None:
        known = [{"sigma_y": float(one)} for one in np.asarray(measured.problems.sigma_y)]
    fixed = {
        "seconds_per_image": restored.seconds_per_image,
        "network_calls": cost.network_calls * config.num_particles,
        "vjps": cost.vjps * config.num_particles,
        "amortized_calls": cost.amortized_calls * config.num_particles,
    }
    if restored.memory:
        fixed["memory_bytes"] = restored.memory
    return {
        "sampler": restored.name,
        "operator": type(config.operator).__name__,
        "images": len(measured.names),
        "particles": config.num_particles,
        "warnings": warnings + fit_warnings(restored.name, table["residual_chi2"], measured),
        "mean": {key: finite_mean(values) for key, values in table.items()} | fixed,
        "infinite": {
            key: count for key, values in table.items() if (count := int(np.sum(np.isinf(values))))
        },
        "per_image": [
            {"name": name} | one | {key: finite_mean(values[i]) for key, values in table.items()}
            for i, (name, one) in enumerate(zip(measured.names, known, strict=True))
        ],
        "baseline": {key: finite_mean(values) for key, values in baseline.items()},
    }
