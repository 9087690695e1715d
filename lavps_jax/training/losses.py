"""Losses of one image, and those of denoisers."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import NetworkDenoiser
from lavps_jax.diffusion.parameterisations import SIGMA_DATA
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.operators.families.base import Setting, drawn
from lavps_jax.problems.problem import Problem, simulate
from lavps_jax.types import PRNGKey, Weights

Metrics = dict[str, Array]


class Loss:
    """Loss of ONE image; subclasses are frozen, hashable dataclasses.

    What a loss remembers from step to step of an image's place in the batch is its carry, which
    `begin` makes; most have none.
    """

    def __call__(
        self,
        weights: Weights,
        rng_key: PRNGKey,
        frozen: Any,
        x_0: Float[Array, "H W C"],
        carry: Any,
        *,
        train: bool,
        label: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, ""], Metrics, Any]:
        """(loss, metrics, carry).

        Args:
          weights: what is trained.
          rng_key: of this image in this step.
          frozen: what is used and not trained, such as the prior.
          x_0: clean image in [-1, 1].
          carry: see above; ignored where the loss is a validation score.
          train: dropout is active in training only.
          label: number of the image's class: -1 is the null class, None where the network has no
            classes.
        """
        raise NotImplementedError

    def begin(self, rng_key: PRNGKey, frozen: Any, x_0: Float[Array, "H W C"]) -> Any:
        """The carry before the first step."""
        return ()

    def renew(
        self, rng_keys: PRNGKey, frozen: Any, images: Float[Array, "B H W C"], carry: Any
    ) -> Any:
        """The carries of a whole batch, leaves (B, ...), as the next step takes them."""
        return carry


@dataclass(frozen=True)
class PriorLoss(Loss):
    """Weighted denoising error of one image at one random noise level.

    Eq. (2) and table 1 of Karras et al. 2022, arXiv:2206.00364: log sigma ~ N(mean, std^2), weight
    (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, mean over pixels.
    """

    denoiser: NetworkDenoiser
    log_sigma_mean: float
    log_sigma_std: float
    num_classes: int = 0
    label_dropout: float = 0.0

    def __call__(self, weights, rng_key, frozen, x_0, carry, *, train, label=None):
        key_sigma, key_noise, key_dropout, key_label = jax.random.split(rng_key, 4)
        rate = self.label_dropout if train else 0.0
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        x_0_hat = self.denoiser.replace(weights=weights).at_sigma(
            z,
            sigma_t,
            shown_label(key_label, label, self.num_classes, rate),
            key_dropout if train else None,
        )
        loss = _edm_weight(sigma_t) * jnp.mean((x_0_hat - x_0) ** 2)
        return loss, {}, carry


@dataclass(frozen=True)
class SupervisedLoss(Loss):
    """The loss of `PriorLoss` for a denoiser that sees a simulated measurement.

    The weight is 1 / scale^2 of what its network corrects, which is that of `PriorLoss` unless
    the measurement is part of it (a pivot).
    """

    denoiser: SupervisedDenoiser
    operator: OperatorFamily
    sigma_y: Setting
    log_sigma_mean: float
    log_sigma_std: float
    num_classes: int = 0
    label_dropout: float = 0.0

    def __call__(self, weights, rng_key, frozen, x_0, carry, *, train, label=None):
        key_operator, key_y, key_sigma, key_noise, key_dropout, key_label = jax.random.split(
            rng_key, 6
        )
        problem = draw_problem(key_operator, key_y, x_0, self.operator, self.sigma_y)
        rate = self.label_dropout if train else 0.0
        problem = problem.replace(label=shown_label(key_label, label, self.num_classes, rate))
        log_sigma = self.log_sigma_mean + self.log_sigma_std * jax.random.normal(key_sigma)
        sigma_t = jnp.exp(log_sigma)
        z = x_0 + sigma_t * jax.random.normal(key_noise, x_0.shape)
        dropout_key = key_dropout if train else None
        denoiser = self.denoiser.replace(weights=weights)
        prepared = denoiser.prepare(problem)
        x_0_hat, scale = denoiser.predict(z, problem, prepared, sigma_t, dropout_key)
        return jnp.mean(((x_0_hat - x_0) / scale) ** 2), {}, carry


def draw_problem(
    key_operator: PRNGKey,
    key_y: PRNGKey,
    x_0: Float[Array, "H W C"],
    family: OperatorFamily,
    sigma_y: Setting,
) -> Problem:
    """A measurement of x_0 by an operator of the family; a range of sigma_y is log-uniform."""
    operator, key = family.draw(key_operator, x_0.shape), jax.random.fold_in(key_y, 1)
    if isinstance(sigma_y, tuple):
        logs = log(sigma_y[0]), log(sigma_y[1])
        return simulate(key_y, x_0, operator, jnp.exp(drawn(key, logs)))
    return simulate(key_y, x_0, operator, sigma_y)


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
