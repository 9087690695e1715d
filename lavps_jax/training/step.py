"""Losses of one image, the training state, and the jitted training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import SIGMA_DATA, EDMDenoiser
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.problems.likelihoods import simulate
from lavps_jax.training.amortized import Chain, ChainLoss
from lavps_jax.types import PRNGKey, Weights

__all__ = [
    "SupervisedLoss",
    "LossFn",
    "PriorLoss",
    "TrainState",
    "begin_chains",
    "init_train_state",
    "make_train_step",
    "shown_label",
]

Metrics = dict[str, Array]


class LossFn(Protocol):
    """Loss of ONE image; frozen, hashable. `frozen` holds weights that are used, not trained.

    Dropout is active in training only, not where the loss is a validation score. `label` is the
    number of the image's class: -1 is the null class, None where the network has no classes.
    """

    def __call__(
        self,
        weights: Weights,
        rng_key: PRNGKey,
        frozen: Weights,
        x_0: Float[Array, "H W C"],
        *,
        train: bool,
        label: Int[Array, ""] | None = None,
    ) -> tuple[Array, Metrics]: ...


@dataclass(frozen=True)
class PriorLoss:
    """Weighted denoising error of one image at one random noise level.

    Eq. (2) and table 1 of Karras et al. 2022, arXiv:2206.00364: log sigma ~ N(mean, std^2), weight
    (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, mean over pixels.
    """

    denoiser: EDMDenoiser
    log_sigma_mean: float
    log_sigma_std: float
    num_classes: int = 0
    label_dropout: float = 0.0

    def __call__(self, weights, rng_key, frozen, x_0, *, train, label=None):
        key_sigma, key_noise, key_dropout, key_label = jax.random.split(rng_key, 4)
        rate = self.label_dropout if train else 0.0
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        x_0_hat = self.denoiser.at_sigma(
            weights,
            z,
            sigma_t,
            shown_label(key_label, label, self.num_classes, rate),
            key_dropout if train else None,
        )
        loss = _edm_weight(sigma_t) * jnp.mean((x_0_hat - x_0) ** 2)
        return loss, {}


@dataclass(frozen=True)
class SupervisedLoss:
    """The loss of `PriorLoss` for a denoiser that sees a simulated measurement.

    The weight is 1 / scale^2 of what its network corrects, which is that of `PriorLoss` unless
    the measurement is part of it (a pivot).
    """

    denoiser: SupervisedDenoiser
    operator: OperatorFamily
    sigma_y: float
    log_sigma_mean: float
    log_sigma_std: float
    num_classes: int = 0
    label_dropout: float = 0.0

    def __call__(self, weights, rng_key, frozen, x_0, *, train, label=None):
        key_operator, key_y, key_sigma, key_noise, key_dropout, key_label = jax.random.split(
            rng_key, 6
        )
        problem = simulate(key_y, x_0, self.operator.draw(key_operator, x_0.shape), self.sigma_y)
        rate = self.label_dropout if train else 0.0
        problem = problem.replace(label=shown_label(key_label, label, self.num_classes, rate))
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        dropout_key = key_dropout if train else None
        x_0_hat, scale = self.denoiser.predict(weights, z, problem, sigma_t, dropout_key)
        return jnp.mean(((x_0_hat - x_0) / scale) ** 2), {}


def shown_label(
    rng_key: PRNGKey, label: Int[Array, ""] | None, num_classes: int, dropout: float
) -> Float[Array, " K"] | None:
    """The class as networks see it in training, one-hot (K,): zeros, the null class, now and then.

    So that one network learns both, with the class and without. Source: Ho and Salimans,
    "Classifier-Free Diffusion Guidance", arXiv:2207.12598, algorithm 1.
    """
    if label is None:
        return None
    dropped = jax.random.bernoulli(rng_key, dropout)
    return jax.nn.one_hot(jnp.where(dropped, -1, label), num_classes)


def _edm_weight(sigma_t: Float[Array, ""]) -> Float[Array, ""]:
    return (sigma_t**2 + SIGMA_DATA**2) / (sigma_t * SIGMA_DATA) ** 2


class TrainState(NamedTuple):
    """Everything a training run carries from step to step.

    Attributes:
      weights: what is trained.
      ema: their exponential moving average, what is used afterwards.
      opt_state: state of the optimizer.
      step: steps done, int32 ().
      num_skipped: how many of them changed nothing, because their loss or gradient was not finite.
      chains: the sampler's runs of a `ChainLoss`, one per image of the batch; otherwise ().
    """

    weights: Weights
    ema: Weights
    opt_state: Any
    step: Int[Array, ""]
    num_skipped: Int[Array, ""]
    chains: Any = ()


def init_train_state(
    weights: Weights, optimizer: optax.GradientTransformation, chains: Any = ()
) -> TrainState:
    """The state before the first step; the average starts as a copy of the weights."""
    ema = jax.tree.map(jnp.copy, weights)
    # Two arrays: the state is donated, and a buffer can be donated once only.
    step, num_skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(weights, ema, optimizer.init(weights), step, num_skipped, chains)


def begin_chains(
    loss_fn: ChainLoss, frozen: Weights, images: Float[Array, "B H W C"], rng_key: PRNGKey
) -> Chain:
    """One run of the sampler per image, each at a random index, leaves with runs on axis 0."""
    keys = jax.random.split(rng_key, len(images))
    return jax.vmap(lambda key, x_0: loss_fn.begin_anywhere(key, frozen, x_0))(keys, images)


def make_train_step(
    loss_fn: LossFn | ChainLoss,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    num_microbatches: int = 1,
    out_shardings: Any = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted step (train_state, frozen, images, rng_key, labels=None) -> (state, metrics).

    Images are float (B, H, W, C) in [-1, 1], labels int32 (B,), see `LossFn`.

    The keys of a step are folded from train_state.step and the position in the batch, so a resumed
    run repeats the uninterrupted one. The state is donated. With a `ChainLoss` the images are
    those on which new runs begin. The average warms up: its decay is
    min(ema_decay, (1 + step) / (10 + step)), so that early it is not held back by the start. A step
    whose loss or gradient is not finite leaves weights, average and optimizer as they were.

    Args:
      num_microbatches: parts of the batch that go through the network one after the other, so that
        memory is needed for one of them; it divides B. The gradient is that of the whole batch.
      out_shardings: of (state, metrics); None keeps what the compiler likes.
    """

    def batch_loss(weights, keys, frozen, images, labels, chains):
        match loss_fn:
            case ChainLoss():
                advance = jax.vmap(loss_fn.advance, in_axes=(None, 0, None, 0))
                losses, metrics, chains = advance(weights, keys, frozen, chains)
            case _:
                per_image = jax.vmap(
                    lambda key, x_0, label: loss_fn(
                        weights, key, frozen, x_0, train=True, label=label
                    )
                )
                losses, metrics = per_image(keys, images, labels)
        return jnp.mean(losses), (jax.tree.map(jnp.mean, metrics), chains)

    differentiate = jax.value_and_grad(batch_loss, has_aux=True)

    def whole_batch(weights, *rows_and_frozen):
        if num_microbatches == 1:
            return differentiate(weights, *rows_and_frozen)
        keys, frozen, images, labels, chains = rows_and_frozen

        def add(total, rows):
            keys, images, labels, chains = rows
            (loss, (metrics, chains)), gradient = differentiate(
                weights, keys, frozen, images, labels, chains
            )
            part = jax.tree.map(lambda one: one / num_microbatches, (loss, metrics, gradient))
            return jax.tree.map(jnp.add, total, part), chains

        rows = jax.tree.map(partial(_cut, count=num_microbatches), (keys, images, labels, chains))
        first = jax.tree.map(lambda leaf: leaf[0], rows)
        (loss, (metrics, _)), gradient = jax.eval_shape(
            differentiate, weights, first[0], frozen, *first[1:]
        )
        zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), (loss, metrics, gradient))
        (loss, metrics, gradient), chains = jax.lax.scan(add, zeros, rows)
        return (loss, (metrics, jax.tree.map(_joined, chains))), gradient

    def train_step(train_state, frozen, images, rng_key, labels=None):
        key = jax.random.fold_in(rng_key, train_state.step)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(images)))
        (loss, (metrics, chains)), gradient = whole_batch(
            train_state.weights, keys, frozen, images, labels, train_state.chains
        )
        if isinstance(loss_fn, ChainLoss):
            chains = _replace_ended(loss_fn, keys, frozen, images, chains)
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
        new = TrainState(weights, ema, opt_state, train_state.step + 1, num_skipped, chains)
        return new, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def _cut(leaf: Array, count: int) -> Array:
    """(B, ...) as (count, B / count, ...): each part has some of the images of every device."""
    return jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0)


def _joined(parts: Array) -> Array:
    """The inverse of `_cut`."""
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])


def _replace_ended(loss_fn: ChainLoss, keys, frozen, images, chains: Chain) -> Chain:
    """The runs with those that are over, or not finite, replaced by new ones on the batch."""
    finite = jnp.isfinite(chains.x_t).all((1, 2, 3)) & jnp.isfinite(chains.x_0).all((1, 2, 3))
    over = jax.vmap(loss_fn.is_over)(chains) | ~finite
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)

    def replaced():
        begin = jax.vmap(lambda key, x_0: loss_fn.begin(key, frozen, x_0, loss_fn.top_idx))
        pick = jax.vmap(lambda one, *both: jax.tree.map(partial(jnp.where, one), *both))
        return pick(over, begin(keys, images), chains)

    # Most steps end no run: the new ones' denoiser calls are worth a branch.
    return jax.lax.cond(jnp.any(over), replaced, lambda: chains)
