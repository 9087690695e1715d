"""Losses of one image, the training state, and the jitted training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion import (
    SIGMA_DATA,
    ConditionalDenoiserFn,
    EDMDenoiser,
    add_noise,
    bridge_draw,
)
from lavps_jax.likelihoods import simulate
from lavps_jax.operators import OperatorFamily
from lavps_jax.schedules import BridgeCoefficients, bridge_coefficients, time_grid
from lavps_jax.starts import Amortized, ZeroShot
from lavps_jax.types import DenoiseFn, PRNGKey, Weights
from lavps_jax.variational import Block, block_loss

__all__ = [
    "AmortizedLoss",
    "ConditionalLoss",
    "LossFn",
    "PriorLoss",
    "TrainState",
    "init_train_state",
    "make_train_step",
]

Metrics = dict[str, Array]


class LossFn(Protocol):
    """Loss of ONE image; frozen, hashable. `frozen` holds weights that are used, not trained.

    Dropout is active in training only, not where the loss is a validation score.
    """

    def __call__(
        self,
        weights: Weights,
        rng_key: PRNGKey,
        frozen: Weights,
        x_0: Float[Array, "H W C"],
        *,
        train: bool,
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

    def __call__(self, weights, rng_key, frozen, x_0, *, train):
        key_sigma, key_noise, key_dropout = jax.random.split(rng_key, 3)
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        x_0_hat = self.denoiser.at_sigma(weights, z, sigma_t, key_dropout if train else None)
        loss = _edm_weight(sigma_t) * jnp.mean((x_0_hat - x_0) ** 2)
        return loss, {}


@dataclass(frozen=True)
class ConditionalLoss:
    """The loss of `PriorLoss` for a denoiser that sees a simulated measurement (Palette)."""

    denoiser: ConditionalDenoiserFn
    operator: OperatorFamily
    sigma_y: float
    log_sigma_mean: float
    log_sigma_std: float

    def __call__(self, weights, rng_key, frozen, x_0, *, train):
        key_operator, key_y, key_sigma, key_noise, key_dropout = jax.random.split(rng_key, 5)
        problem = simulate(key_y, x_0, self.operator.draw(key_operator, x_0.shape), self.sigma_y)
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        dropout_key = key_dropout if train else None
        x_0_hat = self.denoiser.at_sigma(weights, z, problem.x_pinv, sigma_t, dropout_key)
        loss = _edm_weight(sigma_t) * jnp.mean((x_0_hat - x_0) ** 2)
        return loss, {}


@dataclass(frozen=True)
class AmortizedLoss:
    """Negative ELBO of the amortized start on a random block of the sampler's grid, nats.

    Method section 5: an operator of the family and noise for every image; grid index i uniform in
    [low_idx, high_idx); tau = times[i], t = times[i + 1]; x_t from the forward process, and the
    denoiser's x_0_hat in the place of the sampler's x_0. `frozen` is the prior's theta. The metrics
    hold L at the block prior with the same draw: their ratio says what the network gains.
    """

    denoise_fn: DenoiseFn
    start: Amortized
    operator: OperatorFamily
    sigma_y: float
    num_steps: int
    low_idx: int
    high_idx: int

    def __call__(self, weights, rng_key, frozen, x_0, *, train):
        keys = jax.random.split(rng_key, 6)
        key_operator, key_y, key_index, key_noise, key_eps, key_dropout = keys
        problem = simulate(key_y, x_0, self.operator.draw(key_operator, x_0.shape), self.sigma_y)
        schedule = self.start.schedule
        times = time_grid(self.num_steps, schedule)
        table = bridge_coefficients(schedule.alpha_bar, 0, times[1:-1], times[2:], eta=1.0)
        index = jax.random.randint(key_index, (), self.low_idx, self.high_idx)
        t, tau = jnp.asarray(times)[index + 1], jnp.asarray(times)[index]
        row = BridgeCoefficients(*(jnp.asarray(c, jnp.float32)[index - 1] for c in table))

        x_t = add_noise(jax.random.normal(key_noise, x_0.shape), x_0, t, schedule)
        x_0_hat = jax.lax.stop_gradient(self.denoise_fn(frozen, x_t, t))
        mean = bridge_draw(jnp.zeros_like(x_t), row, x_t, x_0_hat)
        block = Block(x_0_hat, x_t, mean, jnp.asarray(row.std), t, tau)
        eps = jax.random.normal(key_eps, x_0.shape)
        params = {"theta": frozen, "phi": weights}

        def loss_fn(mu, rho, eps):
            return block_loss(mu, rho, eps, self.denoise_fn, params, problem, block)

        dropout_key = key_dropout if train else None
        mu, rho = self.start(params, problem, block, eps, loss_fn, dropout_key=dropout_key)
        loss = loss_fn(mu, rho, eps)
        at_prior = loss_fn(*ZeroShot()(params, problem, block, eps, loss_fn), eps)
        return loss, {"loss_at_block_prior": jax.lax.stop_gradient(at_prior)}


def _edm_weight(sigma_t: Float[Array, ""]) -> Float[Array, ""]:
    return (sigma_t**2 + SIGMA_DATA**2) / (sigma_t * SIGMA_DATA) ** 2


class TrainState(NamedTuple):
    """Everything a training run carries from step to step.

    Attributes:
      weights: what is trained.
      ema: their exponential moving average, what is used afterwards.
      opt_state: state of the optimizer.
      step: steps done, int32 ().
    """

    weights: Weights
    ema: Weights
    opt_state: Any
    step: Int[Array, ""]


def init_train_state(weights: Weights, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the average starts as a copy of the weights."""
    ema = jax.tree.map(jnp.copy, weights)
    return TrainState(weights, ema, optimizer.init(weights), jnp.zeros((), jnp.int32))


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, ema_decay: float
) -> Callable[[TrainState, Weights, Array, PRNGKey], tuple[TrainState, Metrics]]:
    """The jitted step (train_state, frozen, images (B, H, W, C), rng_key) -> (state, metrics).

    The keys of a step are folded from train_state.step and the position in the batch, so a resumed
    run repeats the uninterrupted one. The state is donated. The average warms up: its decay is
    min(ema_decay, (1 + step) / (10 + step)), so that early it is not held back by the start.
    """

    def batch_loss(weights, key, frozen, images):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(images)))
        per_image = jax.vmap(lambda k, x_0: loss_fn(weights, k, frozen, x_0, train=True))
        losses, metrics = per_image(keys, images)
        return jnp.mean(losses), jax.tree.map(jnp.mean, metrics)

    def train_step(train_state, frozen, images, rng_key):
        key = jax.random.fold_in(rng_key, train_state.step)
        (loss, metrics), gradient = jax.value_and_grad(batch_loss, has_aux=True)(
            train_state.weights, key, frozen, images
        )
        update, opt_state = optimizer.update(gradient, train_state.opt_state, train_state.weights)
        weights = optax.apply_updates(train_state.weights, update)
        step = train_state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        ema = optax.incremental_update(weights, train_state.ema, 1 - decay)
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient), **metrics}
        return TrainState(weights, ema, opt_state, train_state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)
