"""From the settings of a run to the sampler that draws."""

from __future__ import annotations

from typing import Any

from lavps_jax.config.tasks import PriorTask
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.networks import ComputeDtype
from lavps_jax.networks.tiled import Tiles
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.runs.loading import (
    load_amortized,
    load_generator,
    load_supervised,
    stored_config,
)
from lavps_jax.samplers import LAVPS, OneStep, Sampler, Supervised


def network_path(sampler: Sampler) -> str | None:
    """The folder of the exported network that a sampler's settings name; None if it needs none.

    Raises:
      UserError: if it needs one and names none.
    """
    match sampler:
        case LAVPS():
            field, path, kind = "amortized", sampler.amortized, "amortized network"
        case Supervised():
            field, path, kind = "denoiser", sampler.denoiser, "supervised denoiser"
        case OneStep():
            field, path, kind = "generator", sampler.generator, "generator"
        case _:
            return None
    if not isinstance(path, str):
        raise UserError(f"sampler.{field}", type(path).__name__, "give the folder of an export")
    if not path:
        raise UserError(f"sampler.{field}", "nothing", f"give the folder of an exported {kind}")
    return path


def build_sampler(
    settings: Sampler,
    schedule: Schedule,
    image_shape: tuple[int, ...],
    *,
    operator: OperatorFamily | None = None,
    sigma_y: float | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
) -> Sampler:
    """The sampler that a run's settings describe, with the network that they name in place.

    Args:
      settings: the method; networks are paths.
      schedule: noise schedule of the prior.
      image_shape: (H, W, C).
      operator, sigma_y: what measurements will be of, None if unknown: LAVPS compares starts on
        all that its network was not trained on, unless its settings say otherwise.
      tiles: evaluate networks on tiles, as the prior.
      compute_dtype: of networks, as of `load_network`.

    Raises:
      UserError: if a network it needs is missing, or was trained for another task, schedule or
        kind of images; or a setting does not fit the schedule.
    """
    if not isinstance(settings, Sampler):
        remedy = "give one of lavps_jax.samplers, or a subclass of its Sampler"
        raise UserError("sampler", type(settings).__name__, remedy)
    path = network_path(settings)
    match settings:
        case LAVPS():
            start = load_amortized(str(path), image_shape, tiles, compute_dtype)
            known = is_trained_on(str(path), operator, sigma_y)
            if (trained := getattr(start, "trained", None)) is not None:
                known &= trained.has_grid(settings.num_steps, settings.grid_power)
            compares = not known if settings.best_of is None else settings.best_of
            sampler: Sampler = settings.replace(amortized=start, best_of=compares)
        case Supervised():
            network = load_supervised(str(path), image_shape, tiles, compute_dtype)
            sampler = settings.replace(denoiser=network)
        case OneStep():
            if tiles is not None:  # Nothing would make the tiles of one sample agree.
                remedy = "leave it out: a generator samples in one evaluation"
                raise UserError("tile", tiles.side, remedy)
            network, start_sigma = load_generator(str(path), image_shape, compute_dtype)
            sampler = settings.replace(generator=network, start_sigma=start_sigma)
        case _:
            sampler = settings
    sampler.plan(schedule)  # What does not fit the schedule is refused before anything runs.
    return sampler


def is_trained_on(path: str, operator: OperatorFamily | None, sigma_y: float | None) -> bool:
    """Whether the exported network at `path` was trained on such measurements; None is unknown.

    Args:
      path: folder of the export.
      operator, sigma_y: of the measurements.

    Raises:
      UserError: if there is none.
    """
    task: Any = stored_config(path).task
    if isinstance(task, PriorTask):
        return False
    noise = task.sigma_y if isinstance(task.sigma_y, tuple) else (task.sigma_y, task.sigma_y)
    known = operator is not None and sigma_y is not None
    return known and noise[0] <= sigma_y <= noise[1] and task.operator.includes(operator)
