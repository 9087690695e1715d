"""Exported networks as what they are used for: priors, starts, supervised denoisers."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import nnx

from lavps_jax.config.settings import PublishedPrior, TrainConfig, from_json
from lavps_jax.config.tasks import AmortizedTask, OneStepTask, PriorTask, SupervisedTask
from lavps_jax.data import DataConfig, FolderData, SyntheticData, TfdsData
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.errors import UserError
from lavps_jax.io.shipped import shipped_network
from lavps_jax.io.weights import load_weights, read_card
from lavps_jax.networks import (
    AmortizedNetworkConfig,
    ComputeDtype,
    HDiTConfig,
    LocalUNetConfig,
    SongUNetConfig,
    SupervisedNetworkConfig,
    UNetConfig,
)
from lavps_jax.networks.pure import PureModel, split
from lavps_jax.networks.tiled import Model, Tiles, tiled
from lavps_jax.samplers.starts import Amortized, SupervisedStart, TrainedBlocks
from lavps_jax.types import Weights


class NetworkShape(NamedTuple):
    """Which images networks take.

    Attributes:
      channels: of the images.
      multiple: sides are multiples of it.
      num_classes: of a class-conditional network; 0 means none.
      smallest: sides are at least this many pixels, a multiple of `multiple` too.
      trained_side: longer side of the images it was trained on; None if that is not known, or does
        not matter.
    """

    channels: int
    multiple: int
    num_classes: int = 0
    smallest: int = 1
    trained_side: int | None = None


def load_prior(
    path: str,
    image_shape: tuple[int, ...] | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
    **source: DataConfig,
) -> NetworkDenoiser:
    """The exported diffusion prior at `path`.

    Args:
      path: folder of the export, or the name of a shipped one: "fashion_mnist", "photo".
      image_shape: (H, W, C) of images that it has to take, if known.
      tiles: evaluate it on tiles of larger images.
      compute_dtype: as of `load_network`.
      **source: as of `check_image_shape`.

    Raises:
      UserError: if there is none, or it does not take images of `image_shape`.
    """
    path = found_network(path, "/prior")
    model, weights, config = load_network(path, compute_dtype)
    task = _prior_task(path, config)
    if image_shape is not None:
        check_image_shape(task.network, image_shape, tiles, **source)
    model = tiled(model, tiles)
    return NetworkDenoiser(weights, model, task.parameterisation, schedule=config.schedule)


def load_amortized(
    path: str,
    image_shape: tuple[int, ...] | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
) -> Amortized | SupervisedStart:
    """The start of LAVPS from an exported amortized network, or from a supervised denoiser.

    Args:
      path: folder of the export, or the name of a shipped one: "fashion_mnist/motion_blur".
      image_shape, tiles, compute_dtype: as of `load_prior`.

    Raises:
      UserError: as of `load_prior`.
    """
    model, weights, config = load_network(path := found_network(path), compute_dtype)
    task = config.task
    if not isinstance(task, AmortizedTask | SupervisedTask):
        remedy = "give an amortized network or a supervised denoiser"
        raise UserError("sampler.amortized", path, remedy)
    if image_shape is not None:
        check_image_shape(task.network, image_shape, tiles)
    model = tiled(model, tiles)
    if isinstance(task, SupervisedTask):
        return SupervisedStart(supervised_denoiser(model, task, config.schedule, weights))
    return amortized_start(model, task, config.schedule, weights)


def load_supervised(
    path: str,
    image_shape: tuple[int, ...] | None = None,
    tiles: Tiles | None = None,
    compute_dtype: ComputeDtype = "float32",
) -> SupervisedDenoiser:
    """An exported supervised denoiser; arguments and errors as of `load_prior`."""
    model, weights, config = load_network(path := found_network(path), compute_dtype)
    if not isinstance(config.task, SupervisedTask):
        raise UserError("sampler.denoiser", path, "give a supervised denoiser")
    if image_shape is not None:
        check_image_shape(config.task.network, image_shape, tiles)
    return supervised_denoiser(tiled(model, tiles), config.task, config.schedule, weights)


def load_generator(
    path: str,
    image_shape: tuple[int, ...] | None = None,
    compute_dtype: ComputeDtype = "float32",
) -> tuple[SupervisedDenoiser, float]:
    """An exported generator and its start_sigma; arguments and errors as of `load_prior`."""
    model, weights, config = load_network(path := found_network(path), compute_dtype)
    if not isinstance(config.task, OneStepTask):
        raise UserError("sampler.generator", path, "give a generator")
    if image_shape is not None:
        check_image_shape(config.task.network, image_shape, None)
    generator = supervised_denoiser(model, config.task, config.schedule, weights)
    return generator, config.task.start_sigma


def load_network(
    path: str, compute_dtype: ComputeDtype = "float32"
) -> tuple[PureModel, Weights, TrainConfig | PublishedPrior]:
    """An exported network, its weights, and the configuration that trained it.

    Args:
      path: folder of the export.
      compute_dtype: in which the network computes; the weights are rounded to it.

    Raises:
      UserError: if there is none at `path`, or it is damaged.
    """
    config = stored_config(path)
    # The structure is all that is needed: drawing initial weights would be wasted work.
    abstract = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
    model, weights = split(abstract)
    model = dataclasses.replace(model, compute_dtype=compute_dtype)
    weights = model.rounded(load_weights(path, weights))
    return model, jax.tree.map(jax.numpy.asarray, weights), config


def stored_config(path: str) -> TrainConfig | PublishedPrior:
    """The configuration that trained the exported network at `path`, or what it is otherwise.

    Raises:
      UserError: if there is none.
    """
    stored = read_card(path).get("config")
    config: Any = from_json(stored) if stored else None
    if not isinstance(config, TrainConfig | PublishedPrior):
        raise UserError("weights", path, "give weights that train.py exported")
    return config


def network_shape(prior: str) -> NetworkShape:
    """Which images the exported prior at this path takes.

    Raises:
      UserError: if there is none.
    """
    prior = found_network(prior, "/prior")
    config = stored_config(prior)
    network = _prior_task(prior, config).network
    side = config.side if isinstance(config, PublishedPrior) else _side(config.train_data)
    return NetworkShape(
        network.in_channels,
        network.size_multiple,
        network.num_classes,
        network.smallest_side,
        # Trained on crops, it is meant for images of any size.
        None if isinstance(network, LocalUNetConfig) else side,
    )


def amortized_start(
    model: Model, task: AmortizedTask, schedule: Schedule, weights: Weights = None
) -> Amortized:
    """The amortized start of a network, as its task says."""
    network = task.network
    return Amortized(
        weights,
        model,
        schedule,
        network.mean_unit,
        network.guidance,
        network.inverse,
        network.backbone.sees_measurement,
        TrainedBlocks(task.num_steps, task.low_idx, task.high_idx, task.tau_rule, task.grid_power),
        network.residual_of,
    )


def supervised_denoiser(
    model: Model, task: SupervisedTask | OneStepTask, schedule: Schedule, weights: Weights = None
) -> SupervisedDenoiser:
    """The denoiser of a network that sees measurements, as its task says."""
    network = task.network
    sees_measurement = network.backbone.sees_measurement
    return SupervisedDenoiser(
        weights, model, schedule, network.inverse, sees_measurement, network.pivot
    )


def check_image_shape(
    network: HDiTConfig
    | UNetConfig
    | SongUNetConfig
    | LocalUNetConfig
    | AmortizedNetworkConfig
    | SupervisedNetworkConfig,
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
    on_backbone = isinstance(network, AmortizedNetworkConfig | SupervisedNetworkConfig)
    backbone = network.backbone if on_backbone else network
    height, width, channels = image_shape
    if channels != backbone.in_channels:
        remedy = f"the network expects {backbone.in_channels}"
        remedy += _settings(source, "channels", "image_shape")
        raise UserError("channels of the images", channels, remedy)
    multiple, smallest = backbone.size_multiple, backbone.smallest_side
    settings = _settings(source, "size", "crop", "pad_to", "image_shape")
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
    present = [
        f"{field}.{setting.name}"
        for field, data in source.items()
        for setting in dataclasses.fields(data)
        if setting.name in names
    ]
    return f" ({', '.join(present)})" if present else ""


def found_network(path: str, suffix: str = "") -> str:
    """The path, or the folder of the shipped network of this name.

    Args:
      path: of a folder, or a name such as "fashion_mnist/prior".
      suffix: of the name, that may be left out.
    """
    is_name = not os.path.exists(path) and path.count("/") + bool(suffix) == 1 and ":" not in path
    return shipped_network(path + suffix) if is_name else path


def _side(data: DataConfig) -> int | None:
    """Longer side of the images of a source, as far as its settings tell it."""
    match data:
        case TfdsData():
            return data.pad_to or data.size
        case FolderData():
            return data.crop or data.size
        case SyntheticData():
            return max(data.image_shape[:2])
        case _:
            return None


def _prior_task(path: str, config: TrainConfig | PublishedPrior) -> PriorTask:
    if not isinstance(config.task, PriorTask):
        trained = type(config.task).__name__
        raise UserError("prior", path, f"give a prior; this was trained as {trained}")
    return config.task
