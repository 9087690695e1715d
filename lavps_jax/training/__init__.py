"""Losses, the training step and its sharding."""

from lavps_jax.training.amortized import AmortizedLoss, ChainLoss
from lavps_jax.training.losses import Loss, PriorLoss, SupervisedLoss
from lavps_jax.training.one_step import OneStepLoss
from lavps_jax.training.step import TrainState, begin_carry, init_train_state, make_train_step

__all__ = [
    "AmortizedLoss",
    "ChainLoss",
    "Loss",
    "OneStepLoss",
    "PriorLoss",
    "SupervisedLoss",
    "TrainState",
    "begin_carry",
    "init_train_state",
    "make_train_step",
]
