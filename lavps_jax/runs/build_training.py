"""From the configuration of a training run to what is trained, with which loss."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from lavps_jax.config.settings import (
    AmortizedTask,
    OneStepTask,
    OptimizerConfig,
    PriorTask,
    SupervisedTask,
    TrainConfig,
)
from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.errors import UserError
from lavps_jax.networks.pure import PureModel, split, trainable_mask
from lavps_jax.runs.loading import (
    amortized_start,
    found_network,
    load_network,
    load_prior,
    supervised_denoiser,
)
from lavps_jax.training.amortized import AmortizedLoss, ChainLoss
from lavps_jax.training.losses import Loss, PriorLoss, SupervisedLoss
from lavps_jax.training.one_step import OneStepLoss
from lavps_jax.types import Weights


class Trainee(NamedTuple):
    """What a training run trains, with which loss, next to which fixed weights."""

    loss_fn: Loss
    weights: Weights
    frozen: Any


def build_trainee(config: TrainConfig, image_shape: tuple[int, ...]) -> Trainee:
    """Fresh network and loss of the configured task.

    Raises:
      UserError: if a network that the task begins with cannot be loaded, or is for another
        schedule or other images than `image_shape`, (H, W, C).
    """
    frozen: Any = {}
    if config.initial_weights is not None:
        model, weights = _given(config, config.initial_weights)
    elif isinstance(config.task, OneStepTask):
        model, first = _first_generator(config.task)
        weights = one_step_weights(first)
    else:
        model, weights = split(config.task.network.build(nnx.Rngs(config.seed)))
    if isinstance(config.task, AmortizedTask | OneStepTask):
        prior = load_prior(config.task.prior, image_shape)
        if prior.schedule != config.schedule:
            remedy = f"use the schedule of the prior, {prior.schedule}"
            raise UserError("schedule", config.schedule, remedy)
        model_of_prior: Any = prior.model
        frozen = prior.replace(model=dataclasses.replace(model_of_prior, **_precision(config)))
    return Trainee(build_loss(config, model), weights, frozen)


def one_step_weights(weights: Weights) -> Weights:
    """What is trained of a one-step task: a generator and its critic, which begin alike."""
    return {"generator": weights, "critic": jax.tree.map(jnp.copy, weights)}


def exported(task: Any, weights: Weights) -> Weights:
    """What samplers need of trained weights: of a one-step task the generator."""
    return weights["generator"] if isinstance(task, OneStepTask) else weights


def _first_generator(task: OneStepTask) -> tuple[PureModel, Weights]:
    model, weights, trained = load_network(task.denoiser)
    if not isinstance(trained.task, SupervisedTask) or trained.task.network != task.network:
        remedy = "give a supervised denoiser with the same network"
        raise UserError("task.denoiser", task.denoiser, remedy)
    return model, weights


def _given(config: TrainConfig, path: str) -> tuple[PureModel, Weights]:
    """The network of `initial_weights`."""
    task = config.task
    if isinstance(task, OneStepTask):
        raise UserError("initial_weights", path, "leave it out: task.denoiser is what it begins as")
    try:
        model, weights, trained = load_network(found_network(path))
    except UserError as error:
        raise UserError("initial_weights", error.value, error.remedy) from error
    remedy = "give weights of the same task and network"
    if type(trained.task) is not type(task):
        raise UserError("initial_weights", f"{path}, of {type(trained.task).__name__}", remedy)
    if (network := trained.task.network) != task.network:
        facts = {one.name: getattr(network, one.name) for one in dataclasses.fields(network)}
        changed = [f"{name}={value}" for name, value in facts.items()
                   if value != getattr(task.network, name, None)]  # fmt: skip
        raise UserError("initial_weights", f"{path}, of {', '.join(changed)}", remedy)
    if isinstance(trained.task, PriorTask) and trained.task.parameterisation != EDM():
        found = f"{path}, of {trained.task.parameterisation}"
        raise UserError("initial_weights", found, "use those of a denoiser that is EDM(), too")
    return model, weights


def _precision(config: TrainConfig) -> dict[str, Any]:
    return {"compute_dtype": config.compute_dtype, "remat": config.remat}


def build_loss(config: TrainConfig, model: PureModel) -> Loss:
    """The loss of the configured task.

    Raises:
      UserError: if it is a prior of another parameterisation than EDM().
    """
    task, schedule = config.task, config.schedule
    model = dataclasses.replace(model, **_precision(config))
    match task:
        case PriorTask():
            if task.parameterisation != EDM():
                found = task.parameterisation
                raise UserError("task.parameterisation", found, "use EDM(): no other is trained")
            return PriorLoss(
                NetworkDenoiser(None, model, schedule=schedule),
                task.log_sigma_mean,
                task.log_sigma_std,
                task.network.num_classes,
                task.label_dropout,
            )
        case SupervisedTask():
            return SupervisedLoss(
                supervised_denoiser(model, task, schedule),
                task.operator,
                task.sigma_y,
                task.log_sigma_mean,
                task.log_sigma_std,
                task.network.backbone.num_classes,
                task.label_dropout,
            )
        case OneStepTask():
            return OneStepLoss(
                supervised_denoiser(model, task, schedule),
                task.operator,
                task.sigma_y,
                task.start_sigma,
                task.sigma_min,
                task.sigma_max,
            )
        case AmortizedTask():
            blocks = AmortizedLoss(
                amortized_start(model, task, schedule),
                task.operator,
                task.sigma_y,
                task.num_steps,
                task.low_idx,
                task.high_idx,
                task.tau_rule,
                task.block_weight,
                task.grid_power,
            )
            return ChainLoss(blocks) if task.states == "chain" else blocks


def build_optimizer(config: TrainConfig, weights: Weights) -> optax.GradientTransformation:
    """AdamW with clipping; buffers and their decay are left out.

    Generator and critic of a one-step task are clipped apart, and the critic goes first and faster.
    """
    settings, steps, task = config.optimizer, config.num_train_steps, config.task
    if not isinstance(task, OneStepTask):
        return _adamw(settings, _rate(settings, steps))
    rate = _rate(settings, steps)
    rest = optax.constant_schedule(0.0)
    each = {
        "generator": optax.join_schedules([rest, rate], [settings.warmup_steps]),
        "critic": lambda step: task.critic_rate * rate(step),
    }
    return optax.partition(
        {name: _adamw(settings, one) for name, one in each.items()},
        {name: jax.tree.map(lambda _, name=name: name, weights[name]) for name in each},
    )


def _adamw(config: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=trainable_mask),
    )


def _rate(config: OptimizerConfig, num_train_steps: int) -> optax.Schedule:
    match config.schedule:
        case "constant":
            # Joined by hand: optax.warmup_constant_schedule stays at zero without a warm-up.
            warm_up = optax.linear_schedule(0.0, config.peak_lr, config.warmup_steps)
            constant = optax.constant_schedule(config.peak_lr)
            return optax.join_schedules([warm_up, constant], [config.warmup_steps])
        case "cosine":
            return optax.warmup_cosine_decay_schedule(
                0.0,
                config.peak_lr,
                config.warmup_steps,
                max(num_train_steps, config.warmup_steps + 1),
            )
