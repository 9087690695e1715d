"""From configurations to networks, denoisers, starts and samplers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from lavps_jax.config.settings import (
    AmortizedTask,
    LAVPSConfig,
    MGDMConfig,
    OneStepConfig,
    OneStepTask,
    PriorTask,
    SamplerConfig,
    SupervisedConfig,
    SupervisedTask,
    TrainConfig,
    from_json,
)
from lavps_jax.data import DataConfig, FolderData, SyntheticData, TfdsData
from lavps_jax.diffusion.denoisers import EDMDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.io.weights import load_weights, read_card
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    ComputeDtype,
    HDiTConfig,
    SupervisedNetworkConfig,
    UNetConfig,
)
from lavps_jax.networks.pure import PureModel, split
from lavps_jax.networks.tiled import Model, Tiles, tiled
from lavps_jax.operators import families
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.runs.build_zero_shot import build_zero_shot, inner_problem
from lavps_jax.samplers import DDIM, MGDM, OneStep, Sampler
from lavps_jax.samplers.starts import Amortized, BestOf, Start, SupervisedStart, ZeroShot
from lavps_jax.types import Params, Weights

__all__ = [
    "NetworkShape",
    "build_mgdm",
    "build_sampler",
    "build_start",
    "build_supervised",
    "check_image_shape",
    "check_tile",
    "is_trained_on",
    "load_network",
    "load_prior",
    "network_shape",
    "on_trained_blocks",
]


class NetworkShape(NamedTuple):
    """Which images networks take.

    Attributes:
      channels: of the images.
      multiple: sides are multiples of it.
      num_classes: of a class-conditional network; 0 means none.
      smallest: sides are at least this many pixels, a multiple of `multiple` too.
      trained_side: longer side of the images it was trained on; None if that is not known.
    """

    channels: int
    multiple: int
    num_classes: int = 0
    smallest: int = 1
    trained_side: int | None = None


def check_image_shape(
    network: HDiTConfig | UNetConfig | AmortizedNetworkConfig | SupervisedNetworkConfig,
    image_shape: tuple[int, ...],
    tiles: Tiles | None = None,
    **source: DataConfig,
) -> None:
    """Raises a UserError unless the network takes images of this shape (H, W, C), or its tiles.

    Args:
      network: of any kind.
      image_shape: of the images.
      tiles: on which the network is evaluated.
      **source: where the images come from, by the name of its field: remedies name its settings.
    """
    backbone = network if isinstance(network, HDiTConfig | UNetConfig) else network.backbone
    height, width, channels = image_shape
    if channels != backbone.in_channels:
        remedy = f"the network expects {backbone.in_channels}"
        remedy += _settings(source, "channels", "image_shape")
        raise UserError("channels of the images", channels, remedy)
    multiple, smallest = backbone.size_multiple, backbone.smallest_side
    settings = _settings(source, "size", "pad_to", "image_shape")
    if height % multiple or width % multiple:
        remedy = f"use sides that are multiples of {multiple}{settings}"
        raise UserError("size of the images", f"{height}x{width}", remedy)
    if min(height, width) < smallest:
        remedy = f"use sides of at least {smallest}, for the attention windows of the network"
        raise UserError("size of the images", f"{height}x{width}", remedy + settings)
    if tiles is not None:
        check_tile(tiles.side, multiple, smallest)


def check_tile(side: int, multiple: int, smallest: int) -> None:
    """Raises a UserError unless a network that takes such sides can be evaluated on such tiles."""
    if side % multiple or side < smallest:
        raise UserError("tile", side, f"give a multiple of {multiple} that is at least {smallest}")


def _settings(source: Mapping[str, DataConfig], *names: str) -> str:
    """Those of the source that have one of the names, in brackets; or nothing."""
    found = [
        f"{field}.{setting.name}"
        for field, data in source.items()
        for setting in dataclasses.fields(data)
        if setting.name in names
    ]
    return f" ({', '.join(found)})" if found else ""


def load_network(
    path: str, compute_dtype: ComputeDtype = "float32"
) -> tuple[PureModel, Weights, TrainConfig]:
    """An exported network, its weights, and the configuration that trained it.

    Args:
      path: folder of the export.
      compute_dtype: in which the network computes; the weights are rounded to it.

    Raises:
      UserError: if there is none at `path`, or it is damaged.
    """
    config = _stored_config(path)
    # The structure is all that is needed: drawing initial weights would be wasted work.
    abstract = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
    model, weights = split(abstract)
    model = dataclasses.replace(model, compute_dtype=compute_dtype)
    return model, model.rounded(load_weights(path, weights)), config


def _stored_config(path: str) -> TrainConfig:
    stored = read_card(path).get("config")
    config: Any = from_json(stored) if stored else None
    if not isinstance(config, TrainConfig):
        raise UserError("weights", path, "give weights that train.py exported")
    return config


def network_shape(prior: str) -> NetworkShape:
    """Which images the exported prior at this path takes.

    Raises:
      UserError: if there is none.
    """
    config = _stored_config(prior)
    network = _prior_task(prior, config).network
    return NetworkShape(
        network.in_channels,
        network.size_multiple,
        network.num_classes,
        network.smallest_side,
        _side(config.train_data),
    )


def _side(data: DataConfig) -> int | None:
    """Longer side of the images of a source, as far as its settings tell it."""
    match data:
        case TfdsData():
            return data.pad_to or data.size
        case FolderData():
            return data.size
        case SyntheticData():
            return max(data.image_shape[:2])
        case _:
            return None


def load_prior(
    path: str,
    image_shape: tuple[int, ...] | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
    **source: DataConfig,
) -> tuple[EDMDenoiser, Weights]:
    """The exported diffusion prior at `path` as a denoiser and its weights theta.

    Args:
      path: folder of the export.
      image_shape: (H, W, C) of images that it has to take, if known.
      tiles: evaluate it on tiles of larger images.
      compute_dtype: as of `load_network`.
      **source: as of `check_image_shape`.

    Raises:
      UserError: if there is none, or it does not take images of `image_shape`.
    """
    model, weights, config = load_network(path, compute_dtype)
    network = _prior_task(path, config).network
    if image_shape is not None:
        check_image_shape(network, image_shape, tiles, **source)
    denoiser = EDMDenoiser(tiled(model, tiles), config.schedule)
    return denoiser, jax.tree.map(jax.numpy.asarray, weights)


def _prior_task(path: str, config: TrainConfig) -> PriorTask:
    if not isinstance(config.task, PriorTask):
        raise UserError(
            "prior", path, f"give a prior; this was trained as {type(config.task).__name__}"
        )
    return config.task


def build_sampler(
    config: SamplerConfig,
    prior: EDMDenoiser,
    theta: Weights,
    image_shape: tuple[int, ...],
    *,
    operator: OperatorFamily | None = None,
    sigma_y: float | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
) -> tuple[Sampler, Params]:
    """A sampler and the weights it needs.

    Args:
      config: the method.
      prior: the denoiser.
      theta: its weights.
      image_shape: (H, W, C).
      operator, sigma_y: what measurements will be of, None if unknown: LAVPS compares starts on
        all that its network was not trained on, unless the config says otherwise.
      tiles: evaluate amortized and conditional networks on tiles, as the prior.
      compute_dtype: of amortized and conditional networks, as of `load_network`.

    Raises:
      UserError: if a network it needs is missing, or was trained for another task, schedule or
        kind of images.
    """
    schedule = prior.schedule
    params: Params = {"theta": theta}
    match config:
        case MGDMConfig():  # LAVPSConfig is one too.
            start: Start = ZeroShot()
            if isinstance(config, LAVPSConfig):
                if not config.amortized:
                    remedy = "give the folder of an exported amortized network"
                    raise UserError("sampler.amortized", "nothing", remedy)
                model, params["phi"], trained = load_network(config.amortized, compute_dtype)
                task, remedy = trained.task, "give an amortized network or a conditional denoiser"
                if not isinstance(task, AmortizedTask | SupervisedTask):
                    raise UserError("sampler.amortized", config.amortized, remedy)
                if trained.schedule != schedule:
                    remedy += " trained on the schedule of the prior"
                    raise UserError("sampler.amortized", config.amortized, remedy)
                check_image_shape(task.network, image_shape, tiles)
                if isinstance(task, AmortizedTask):
                    config = on_trained_blocks(config, task)
                start = start_of(tiled(model, tiles), task, schedule)
                known = _knows(task, operator, sigma_y)
                best_of = not known if config.best_of is None else config.best_of
                start = BestOf(start, ZeroShot()) if best_of else start
            sampler: Sampler = build_mgdm(config, prior, start)
        case SupervisedConfig():
            if not config.denoiser:
                remedy = "give the folder of an exported conditional denoiser"
                raise UserError("sampler.denoiser", "nothing", remedy)
            model, phi, trained = load_network(config.denoiser, compute_dtype)
            if not isinstance(trained.task, SupervisedTask):
                remedy = "give a conditional denoiser"
                raise UserError("sampler.denoiser", config.denoiser, remedy)
            check_image_shape(trained.task.network, image_shape, tiles)
            params["phi"] = phi
            denoiser = build_supervised(tiled(model, tiles), trained.task, trained.schedule)
            sampler = DDIM(denoiser, config.num_steps, config.eta, trained.schedule)
        case OneStepConfig():
            if not config.generator:
                remedy = "give the folder of an exported generator"
                raise UserError("sampler.generator", "nothing", remedy)
            model, phi, trained = load_network(config.generator, compute_dtype)
            if not isinstance(trained.task, OneStepTask):
                raise UserError("sampler.generator", config.generator, "give a generator")
            if tiles is not None:  # Nothing would make the tiles of one sample agree.
                remedy = "leave it out: a generator samples in one evaluation"
                raise UserError("tile", tiles.side, remedy)
            check_image_shape(trained.task.network, image_shape, tiles)
            params["phi"] = phi
            denoiser = build_supervised(tiled(model, tiles), trained.task, trained.schedule)
            sampler = OneStep(denoiser, trained.task.start_sigma)
        case _:
            sampler = build_zero_shot(config, prior)
    return sampler, params


def is_trained_on(path: str, operator: OperatorFamily | None, sigma_y: float | None) -> bool:
    """Whether the exported network at `path` was trained on such measurements; None is unknown.

    Raises:
      UserError: if there is none.
    """
    task = _stored_config(path).task
    return not isinstance(task, PriorTask) and _knows(task, operator, sigma_y)


def _knows(task: Any, operator: OperatorFamily | None, sigma_y: float | None) -> bool:
    """Whether a network was trained on such measurements."""
    mixed = task.operator.families if isinstance(task.operator, families.Mixture) else ()
    return sigma_y == task.sigma_y and operator in (task.operator, *mixed)


def build_mgdm(config: MGDMConfig, prior: EDMDenoiser, start: Start) -> MGDM:
    """MGDM with the zero-shot start, and another one at the low-noise end."""
    return MGDM(
        prior,
        inner_problem(config.inner, ZeroShot()),
        inner_problem(config.inner_low_noise, start),
        config.low_idx,
        config.high_idx,
        config.num_steps,
        config.num_gibbs,
        config.num_ddim_steps,
        config.eta,
        config.tau_rule,
        config.min_tau,
        config.num_mixed_steps,
        prior.schedule,
    )


def start_of(model: Model, task: AmortizedTask | SupervisedTask, schedule: Schedule) -> Start:
    """The start that a network gives."""
    if isinstance(task, SupervisedTask):
        return SupervisedStart(build_supervised(model, task, schedule))
    return build_start(model, task, schedule)


def build_start(model: Model, task: AmortizedTask, schedule: Schedule) -> Amortized:
    """The amortized start of a network, as its task says."""
    network = task.network
    sees = network.backbone.sees_measurement
    return Amortized(model, schedule, network.mean_unit, network.guidance, network.inverse, sees)


def build_supervised(
    model: Model, task: SupervisedTask | OneStepTask, schedule: Schedule
) -> SupervisedDenoiser:
    """The denoiser of a network that sees measurements, as its task says."""
    network = task.network
    sees = network.backbone.sees_measurement
    return SupervisedDenoiser(model, schedule, network.inverse, sees, network.pivot)


def on_trained_blocks(config: LAVPSConfig, task: AmortizedTask) -> LAVPSConfig:
    """The configuration with the range of blocks on which its amortized network was trained.

    Raises:
      UserError: if it has pairs (t, tau) on which the network was not trained.
    """
    if config.num_steps != task.num_steps:
        remedy = f"use {task.num_steps}, with which the amortized network was trained"
        raise UserError("sampler.num_steps", config.num_steps, remedy)
    high_idx = task.high_idx if config.high_idx is None else config.high_idx
    if config.low_idx < task.low_idx or high_idx > task.high_idx:
        remedy = f"stay in ({task.low_idx}, {task.high_idx}), where the network was trained"
        raise UserError("sampler.low_idx, high_idx", (config.low_idx, high_idx), remedy)
    # "mix" draws no tau in its last steps.
    settled = config.num_steps - 2 - config.num_mixed_steps
    mixed = config.tau_rule == "mix"
    rule = "previous" if mixed and high_idx <= settled else config.tau_rule
    if rule != task.tau_rule:
        remedy = f'use "{task.tau_rule}", with which the amortized network was trained'
        if mixed and task.tau_rule == "previous":
            remedy += f", or high_idx = {settled}"
        raise UserError("sampler.tau_rule", config.tau_rule, remedy)
    return dataclasses.replace(config, high_idx=high_idx)
