"""`lavps-sample photo`: restores a photograph of a user, and says beforehand how long it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.console import Console

from lavps_jax.config.photo import TILE, UNITS_PER_LEVEL, PhotoConfig, sample_config
from lavps_jax.config.settings import SampleConfig
from lavps_jax.data.files import read_image
from lavps_jax.errors import UserError
from lavps_jax.io.own_folders import refuse_existing
from lavps_jax.io.storage import AnyPath, absolute, as_path
from lavps_jax.networks.tiled import TILES_AT_ONCE
from lavps_jax.operators.families import JPEG
from lavps_jax.runs.build import build_sampler, is_trained_on, network_path
from lavps_jax.runs.loading import load_prior
from lavps_jax.runs.sampling import run_sampling
from lavps_jax.runs.sampling_job import job_folder
from lavps_jax.samplers import LAVPS

_MEMORY = "batch_size, num_particles"
"""What a program that does not fit the memory is told to lower."""
_FLAGS = {"output directory": "--out", "out_dir": "--out", "observations": "photo"}
"""Fields of the settings by the words of a user."""


def run_photo(words: PhotoConfig, console: Console | None = None) -> AnyPath:
    """Restores a photograph into a new folder; see `run_sampling` for what it holds.

    Raises:
      UserError: if the photograph, a file that comes with it, the folder or the memory will not do.
        Nothing is written then.
    """
    console = console or Console()
    photo = read_image(words.photo, field="photo")
    config = sample_config(words, photo)
    if words.steps is None:  # On another grid than the network's, starts are compared anyway.
        config = _comparing(config)
    with _in_words(config):
        out = absolute(as_path(config.out_dir, "out_dir"))
        refuse_existing(out, "samples", overwrite=config.overwrite)
        job_folder(config.out_dir)
        height, width, _ = config.operator.image_shape(photo.pixels.shape) or (0, 0, 0)
        noise = float(config.sigma_y) / UNITS_PER_LEVEL
        family = config.operator
        jpeg = f", JPEG quality {family.quality}" if isinstance(family, JPEG) else ""
        console.print(
            f"{width} x {height} pixels, noise {noise:.1f} of 255{jpeg}: "
            f"about {in_words(seconds(config, height, width))}",
            highlight=False,
        )
        return run_sampling(config, console, scores=False)


def _comparing(config: SampleConfig) -> SampleConfig:
    """With a LAVPS that compares starts only if its network does not know what was done."""
    sampler = config.sampler
    if not isinstance(sampler, LAVPS):
        return config
    known = is_trained_on(str(network_path(sampler)), config.operator, float(config.sigma_y))
    return dataclasses.replace(config, sampler=sampler.replace(best_of=not known))


def seconds(config: SampleConfig, height: int, width: int) -> float:
    """About how long sampling takes: the times of one evaluation and one derivative of the denoiser
    on a tile, or on as much of a whole image, times those of the run. An amortized network counts
    as an evaluation, and so does one more where derivatives evaluate tiles twice; of the operator
    nothing is counted."""
    prior, side = load_prior(config.prior), config.tile or TILE
    sides = [min(side, height), min(side, width)]
    sampler = build_sampler(config.sampler, prior.schedule, (height, width, 3))
    if config.tile is None:
        parts = height * width / math.prod(sides)
    else:
        between = side - config.tile_overlap
        parts = math.prod(1 + math.ceil(max(n - side, 0) / between) for n in (height, width))

    def square(x: Array) -> Array:
        return jnp.sum(prior(x, jnp.asarray(100)) ** 2)

    image = jax.random.normal(jax.random.key(0), (*sides, 3))
    cost = sampler.cost(prior.schedule)
    again = config.tile is not None and parts > TILES_AT_ONCE
    evaluations = cost.network_calls - cost.vjps + cost.amortized_calls + again * cost.vjps
    both = evaluations * _least_time(square, image)
    if cost.vjps:
        both += cost.vjps * _least_time(jax.grad(square), image)
    return config.num_particles * parts * both


def _least_time(fn: Callable[[Array], Array], x: Array) -> float:
    """Seconds of fn, compiled; the least of three."""
    compiled, times = jax.jit(fn), []
    for _ in range(4):  # The first compiles.
        start = time.perf_counter()
        jax.block_until_ready(compiled(x))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def in_words(seconds: float) -> str:
    """A duration in the largest unit of which there are two."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}s"
    return f"{max(seconds, 1):.0f} second{'s' * (seconds >= 1.5)}"


@contextlib.contextmanager
def _in_words(config: SampleConfig) -> Iterator[None]:
    """Errors about settings of a run become errors about what the user said."""
    try:
        yield
    except UserError as error:
        if error.field not in (*_FLAGS, _MEMORY):
            raise
        field, remedy = _FLAGS.get(error.field, "memory"), error.remedy
        if error.field == _MEMORY:
            free = remedy.rpartition("; ")[2]
            whole = config.tile is None or config.tile > TILE
            ways = f"give --tile {TILE}" if whole else "give a smaller photograph"
            remedy = f"{'give --samples 1' if config.num_particles > 1 else ways}; {free}"
        raise UserError(field, error.value, remedy) from error
