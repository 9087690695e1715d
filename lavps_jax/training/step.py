"""The training state, and the jitted training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lavps_jax.training.losses import Loss, Metrics
from lavps_jax.types import PRNGKey, Weights


class TrainState(NamedTuple):
    """Everything a training run carries from step to step.

    Attributes:
      weights: what is trained.
      ema: their exponential moving average, what is used afterwards.
      opt_state: state of the optimizer.
      step: steps done, int32 ().
      num_skipped: how many of them changed nothing, because their loss or gradient was not finite.
      carry: that of the loss, leaves with images of the batch on axis 0.
    """

    weights: Weights
    ema: Weights
    opt_state: Any
    step: Int[Array, ""]
    num_skipped: Int[Array, ""]
    carry: Any = ()


def init_train_state(
    weights: Weights, optimizer: optax.GradientTransformation, carry: Any = ()
) -> TrainState:
    """The state before the first step; the average starts as a copy of the weights."""
    ema = jax.tree.map(jnp.copy, weights)
    # Two arrays: the state is donated, and a buffer can be donated once only.
    step, num_skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(weights, ema, optimizer.init(weights), step, num_skipped, carry)


def begin_carry(
    loss_fn: Loss, frozen: Any, images: Float[Array, "B H W C"], rng_key: PRNGKey
) -> Any:
    """The carry of a loss for a batch, leaves with images on axis 0."""
    keys = jax.random.split(rng_key, len(images))
    return jax.vmap(lambda key, x_0: loss_fn.begin(key, frozen, x_0))(keys, images)


def make_train_step(
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    num_microbatches: int = 1,
    out_shardings: Any = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted step (train_state, frozen, images, rng_key, labels=None) -> (state, metrics).

    Images are float (B, H, W, C) in [-1, 1], labels int32 (B,), see `Loss`.

    The keys of a step are folded from train_state.step and the position in the batch, so a resumed
    run repeats the uninterrupted one. The state is donated. The average warms up: its decay is
    min(ema_decay, (1 + step) / (10 + step)), so that early it is not held back by the start. A step
    whose loss or gradient is not finite leaves weights, average and optimizer as they were.

    Args:
      num_microbatches: parts of the batch that go through the network one after the other, so that
        memory is needed for one of them; it divides B. The gradient is that of the whole batch.
      out_shardings: of (state, metrics); None leaves them to the compiler.
    """

    def batch_loss(weights, keys, frozen, images, labels, carry):
        def one(key, x_0, label, carry):
            return loss_fn(weights, key, frozen, x_0, carry, train=True, label=label)

        losses, metrics, carry = jax.vmap(one)(keys, images, labels, carry)
        return jnp.mean(losses), (jax.tree.map(jnp.mean, metrics), carry)

    differentiate = jax.value_and_grad(batch_loss, has_aux=True)

    def whole_batch(weights, *rows_and_frozen):
        if num_microbatches == 1:
            return differentiate(weights, *rows_and_frozen)
        keys, frozen, images, labels, carry = rows_and_frozen

        def add(total, rows):
            keys, images, labels, carry = rows
            (loss, (metrics, carry)), gradient = differentiate(
                weights, keys, frozen, images, labels, carry
            )
            part = jax.tree.map(lambda one: one / num_microbatches, (loss, metrics, gradient))
            return jax.tree.map(jnp.add, total, part), carry

        rows = jax.tree.map(partial(_cut, count=num_microbatches), (keys, images, labels, carry))
        first = jax.tree.map(lambda leaf: leaf[0], rows)
        (loss, (metrics, _)), gradient = jax.eval_shape(
            differentiate, weights, first[0], frozen, *first[1:]
        )
        zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (loss, metrics, gradient))
        (loss, metrics, gradient), carry = jax.lax.scan(add, zeros, rows)
        return (loss, (metrics, jax.tree.map(_joined, carry))), gradient

    def train_step(train_state, frozen, images, rng_key, labels=None):
        key = jax.random.fold_in(rng_key, train_state.step)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(images)))
        (loss, (metrics, carry)), gradient = whole_batch(
            train_state.weights, keys, frozen, images, labels, train_state.carry
        )
        carry = loss_fn.renew(keys, frozen, images, carry)
        update, opt_state = optimizer.update(gradient, train_state.opt_state, train_state.weights)
        weights = optax.apply_updates(train_state.weights, update)
        step = train_state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        ema = optax.incremental_update(weights, train_state.ema, 1 - decay)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        weights, ema, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (weights, ema, opt_state),
            (train_state.weights, train_state.ema, train_state.opt_state),
        )
        num_skipped = train_state.num_skipped + jnp.where(finite, 0, 1)
        metrics = {"loss": loss, "gradient_norm": norm, **metrics}
        new = TrainState(weights, ema, opt_state, train_state.step + 1, num_skipped, carry)
        return new, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def _cut(leaf: Array, count: int) -> Array:
    """(B, ...) as (count, B / count, ...): each part has some of the images of every device."""
    return jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0)


def _joined(parts: Array) -> Array:
    """The inverse of `_cut`."""
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])
