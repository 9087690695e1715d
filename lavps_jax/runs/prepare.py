"""Opens the measurements of a sampling run, builds its samplers, and refuses what cannot work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lavps_jax.config.settings import SampleConfig
from lavps_jax.diffusion.conditioning import estimate
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.errors import UserError
from lavps_jax.io.checksums import checksums
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.problem import log_likelihood
from lavps_jax.runs.build import build_sampler, is_trained_on, network_path
from lavps_jax.runs.given_measurements import GivenMeasurements
from lavps_jax.runs.loading import NetworkShape, check_tile, load_prior, network_shape
from lavps_jax.runs.measurements import Measured, Measurements, Simulation, with_classes
from lavps_jax.runs.sampling_job import Processes
from lavps_jax.samplers import LAVPS, Sampler


class Run(NamedTuple):
    """What is restored, and by which samplers.

    Attributes:
      config: of the run.
      measurements: all measurements of the run.
      measured: makes the batch of a number, with the classes of its images.
      is_linear: whether the operators are linear.
      sums: checksums of the measurements of every batch of this process, by number.
      prior: the denoiser.
      samplers: by name.
      warnings: a sentence each.
    """

    config: SampleConfig
    measurements: Measurements
    measured: Callable[[int], Measured]
    is_linear: bool
    sums: dict[int, np.ndarray]
    prior: Denoiser
    samplers: dict[str, Sampler]
    warnings: list[str]

    @property
    def estimates_noise(self) -> bool:
        """Whether sigma_y is found in the measurements."""
        return self.config.sigma_y == "estimate" and self.config.poisson_peak is None


def prepare(config: SampleConfig, console: Console, processes: Processes) -> Run:
    """Opens the measurements and builds the samplers; says what a user should know of them.

    Args:
      config: of the run.
      console: where this is printed.
      processes: which of the processes this is; only its own batches are checked.

    Raises:
      UserError: if a file, the data or a setting is unusable.
    """
    takes = network_shape(config.prior)
    measurements: Measurements
    if config.observations is None:
        measurements = Simulation(config)
    else:
        measurements = GivenMeasurements(config, takes)
    _say(console, measurements.notes)

    def measured(number: int) -> Measured:
        return with_classes(measurements.batch(number), config.class_label, takes.num_classes)

    own = [k for k in range(measurements.num_batches) if processes.does(k)]
    first = measured(own[0] if own else 0)
    if config.tile is not None:
        check_tile(config.tile, takes.multiple, takes.smallest)
    tiles = None if config.tile is None else Tiles(config.tile, config.tile_overlap)
    source = {} if config.observations else {"data": config.data}
    image_shape = measurements.image_shape
    prior = load_prior(config.prior, image_shape, tiles, config.compute_dtype, **source)
    settings = (config.sampler, *(config.compare_with if config.compare else ()))
    # The operators of given measurements may be any of their kind, and starts are learned
    # without classes.
    known = config.observations is None and config.class_label is None
    operator = config.operator if known else None
    unknown = config.sigma_y == "estimate" or config.poisson_peak is not None
    sigma_y = None if unknown else float(config.sigma_y)
    samplers = [
        build_sampler(
            one, prior.schedule, image_shape,
            operator=operator, sigma_y=sigma_y, tiles=tiles, compute_dtype=config.compute_dtype,
        )
        for one in settings
    ]  # fmt: skip
    _check_problems(first, samplers)
    named = dict(zip(_names(settings), samplers, strict=True))
    is_linear = isinstance(first.problems.operator, LinearOperator)
    warnings = _warnings(config, measurements, takes)
    run = Run(config, measurements, measured, is_linear, {}, prior, named, warnings)
    noise = _look_at(run, own)
    _say(console, [f"warning: {words}" for words in warnings])
    if run.estimates_noise and noise:
        shown = " to ".join(dict.fromkeys(f"{one:.3g}" for one in (min(noise), max(noise))))
        console.print(f"sigma_y, estimated: {shown}")
    for (name, sampler), one in zip(named.items(), settings, strict=True):
        if isinstance(one, LAVPS):
            if one.best_of is None and sampler.best_of:  # type: ignore[attr-defined]
                console.print(
                    f"{name}: its network was trained on another operator, sigma_y or grid, or "
                    "that is not known (given measurements, classes): starts are compared with "
                    "zero-shot ones, which takes longer; --sampler.best-of False if it is the "
                    "right network."
                )
        elif (path := network_path(one)) and not is_trained_on(path, operator, sigma_y):
            console.print(
                f"{name}: its network was trained on another operator or sigma_y, or may have "
                "been; it has no likelihood, so that its samples may not fit the measurement."
            )
    return run


def _warnings(config: SampleConfig, measurements: Measurements, takes: NetworkShape) -> list[str]:
    """What may make the results worse than they could be."""
    height, width, _ = measurements.image_shape
    side, warnings = takes.trained_side, []
    if config.tile is None and side is not None and max(height, width) > side:
        warnings.append(
            f"The prior was trained on images of {side} pixels, these are {height} x {width}: "
            f"--tile {side} evaluates it on parts of that size."
        )
    if measurements.each > 1:
        warnings.append(
            "The prior knows grey images alone: the channels of the colour image are restored one "
            "by one, and what it knows may have nothing to do with them."
        )
    return warnings


def _look_at(run: Run, batches: Sequence[int]) -> list[float]:
    """Checks these batches, one after the other, and adds their checksums to `run.sums`.

    Returns:
      sigma_y of all their measurements.

    Raises:
      UserError: if a measurement is unusable, or its likelihood has no finite gradient where
        sampling will begin.
    """

    def finite(problem):
        gradient = jax.grad(lambda x: log_likelihood(problem, x))
        x_0 = estimate(problem)
        images = (x_0, jnp.zeros_like(x_0), -jnp.ones_like(x_0))
        return jnp.stack([jnp.all(jnp.isfinite(gradient(x))) for x in images]).all()

    check, noise = jax.jit(jax.vmap(finite)), []
    for number in batches:
        measured = run.measured(number)
        found = np.asarray(check(measured.problems))
        if not found.all():
            operator = type(measured.problems.operator).__name__
            name = measured.names[int(np.argmin(found))]
            remedy = "fix its forward: check_operator of lavps_jax.testing says where"
            raise UserError("operator", f"{operator} without a finite gradient ({name})", remedy)
        run.sums[number] = sums_of(measured.problems)
        noise += measured.sigma_y.tolist()
    return noise


def sums_of(tree: Any) -> np.ndarray:
    """The checksum of every leaf of a pytree."""
    leaves = map(jnp.asarray, jax.tree.leaves(tree))
    return checksums({f"{i:06d}": leaf for i, leaf in enumerate(leaves)})


def _check_problems(measured: Measured, samplers: Sequence[Sampler]) -> None:
    """Raises a UserError if one of the samplers cannot take the measurements."""

    def check(problem):
        for sampler in samplers:
            sampler.check(problem)
        return problem.sigma_y

    jax.eval_shape(jax.vmap(check), measured.problems)


def _say(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _names(samplers: Sequence[Sampler]) -> list[str]:
    """One name per sampler, as in files and tables: the method, numbered from its second on."""
    methods = [type(one).__name__.lower() for one in samplers]
    counts = [methods[: i + 1].count(method) for i, method in enumerate(methods)]
    return [m if k == 1 else f"{m}_{k}" for m, k in zip(methods, counts, strict=True)]
