"""From configurations to networks, denoisers, starts and losses."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax
from flax import nnx

from lavps_jax.checkpoints import load_weights, read_card
from lavps_jax.config import (
    AmortizedTask,
    ConditionalTask,
    OptimizerConfig,
    PriorTask,
    TrainConfig,
    from_json,
)
from lavps_jax.diffusion import ConditionalDenoiserFn, EDMDenoiser
from lavps_jax.errors import UserError
from lavps_jax.networks.pure import PureModel, split, trainable_mask
from lavps_jax.schedules import Schedule
from lavps_jax.starts import Amortized
from lavps_jax.training import AmortizedLoss, ConditionalLoss, LossFn, PriorLoss
from lavps_jax.types import Weights

__all__ = ["Trainee", "build_optimizer", "build_trainee", "load_network", "load_prior"]


class Trainee(NamedTuple):
    """What a training run trains, with which loss, next to which fixed weights."""

    loss_fn: LossFn
    weights: Weights
    frozen: Weights


def build_trainee(config: TrainConfig) -> Trainee:
    """Fresh network and loss of the configured task.

    Raises:
      UserError: if the prior of an amortized task cannot be loaded or is for another schedule.
    """
    task, schedule = config.task, config.schedule
    model, weights = split(task.network.build(nnx.Rngs(config.seed)))
    match task:
        case PriorTask():
            denoiser = EDMDenoiser(model, schedule)
            loss_fn = PriorLoss(denoiser, task.log_sigma_mean, task.log_sigma_std)
            return Trainee(loss_fn, weights, {})
        case ConditionalTask():
            loss_fn = ConditionalLoss(
                ConditionalDenoiserFn(model, schedule),
                task.operator,
                task.sigma_y,
                task.log_sigma_mean,
                task.log_sigma_std,
            )
            return Trainee(loss_fn, weights, {})
        case AmortizedTask():
            denoiser, theta = load_prior(task.prior)
            if denoiser.schedule != schedule:
                remedy = f"use the schedule of the prior, {denoiser.schedule}"
                raise UserError("schedule", schedule, remedy)
            loss_fn = AmortizedLoss(
                denoiser,
                Amortized(model, schedule),
                task.operator,
                task.sigma_y,
                task.num_steps,
                task.low_idx,
                task.high_idx,
            )
            return Trainee(loss_fn, weights, theta)


def build_optimizer(
    config: OptimizerConfig, num_train_steps: int, weights: Weights
) -> optax.GradientTransformation:
    """AdamW with clipping; buffers and their decay are left out."""
    match config.schedule:
        case "constant":
            rate = optax.warmup_constant_schedule(0.0, config.peak_lr, config.warmup_steps)
        case "cosine":
            rate = optax.warmup_cosine_decay_schedule(
                0.0, config.peak_lr, config.warmup_steps, max(num_train_steps, config.warmup_steps + 1)
            )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(rate, weight_decay=config.weight_decay, mask=trainable_mask(weights)),
    )


def load_network(path: str) -> tuple[PureModel, Weights, TrainConfig]:
    """An exported network, its weights, and the configuration that trained it.

    Raises:
      UserError: if there is none at `path`, or it is damaged.
    """
    stored = read_card(path).get("config")
    config: Any = from_json(stored) if stored else None
    if not isinstance(config, TrainConfig):
        raise UserError("weights", path, "give weights that train.py exported")
    # The structure is all that is needed: drawing initial weights would be wasted work.
    abstract = nnx.eval_shape(lambda: config.task.network.build(nnx.Rngs(0)))
    model, weights = split(abstract)
    return model, load_weights(path, weights), config


def load_prior(path: str) -> tuple[EDMDenoiser, Weights]:
    """The exported diffusion prior at `path` as a denoiser and its weights theta."""
    model, weights, config = load_network(path)
    if not isinstance(config.task, PriorTask):
        raise UserError("prior", path, f"give a prior; this is a {type(config.task).__name__}")
    return EDMDenoiser(model, config.schedule), jax.tree.map(jax.numpy.asarray, weights)
