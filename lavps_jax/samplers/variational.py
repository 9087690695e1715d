"""The block: the negative ELBO of a Gaussian on it, and the gradient steps that lower it.

Method section 4; Janati et al. 2025, arXiv:2502.03332. The block posterior of x_tau given
(x_0, x_t, y) is proportional to N(x_tau; prior_mean, prior_std^2 I) l(y | D(x_tau, tau)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.problems.problem import Problem, log_likelihood

BlockLossFn = Callable[[Array, Array, Array], Array]
"""(mu, rho, eps) -> negative ELBO, float ()."""


class Block(NamedTuple):
    """What one inner problem depends on besides the measurement.

    Attributes:
      x_0: current estimate of the clean image, float (H, W, C).
      x_t: state at t, float (H, W, C).
      prior_mean: mean of the bridge from t to tau given x_0, float (H, W, C).
      prior_std: its standard deviation, float ().
      t: time index, int ().
      tau: time index of the block variable, int (), 1 <= tau < t.
    """

    x_0: Float[Array, "H W C"]
    x_t: Float[Array, "H W C"]
    prior_mean: Float[Array, "H W C"]
    prior_std: Float[Array, ""]
    t: Int[Array, ""]
    tau: Int[Array, ""]


def draw(eps: Array, mu: Array, rho: Array) -> Array:
    """x_tau = mu + exp(rho) eps, a draw of N(mu, diag exp(2 rho))."""
    return mu + jnp.exp(rho) * eps


def block_loss(
    mu: Float[Array, "H W C"],
    rho: Float[Array, "H W C"],
    eps: Float[Array, "H W C"],
    prior: Denoiser,
    problem: Problem,
    block: Block,
) -> Float[Array, ""]:
    """Negative ELBO of N(mu, diag exp(2 rho)) with one draw, float (), nats per image.

    L = -log l(y | D(x_tau, tau)) + ||(x_tau - prior_mean) / prior_std||^2 / 2 - sum(rho) with
    x_tau = mu + exp(rho) eps; constants are dropped. The one definition that sampling, the choice
    between starts, and training all use.

    Cost: one denoiser call.
    """
    return loss_and_image(mu, rho, eps, prior, problem, block)[0]


def loss_and_image(
    mu: Array, rho: Array, eps: Array, prior: Denoiser, problem: Problem, block: Block
) -> tuple[Float[Array, ""], Float[Array, "H W C"]]:
    """`block_loss`, and the denoised image D(x_tau, tau) that it is of."""
    x_tau = draw(eps, mu, rho)
    x_0_hat = prior(x_tau, block.tau, problem.label)
    square = jnp.sum(((x_tau - block.prior_mean) / block.prior_std) ** 2)
    return -log_likelihood(problem, x_0_hat) + square / 2 - jnp.sum(rho), x_0_hat


def fit(
    mu: Float[Array, "H W C"],
    rho: Float[Array, "H W C"],
    eps: Float[Array, "K H W C"],
    loss_fn: BlockLossFn,
    optimizer: optax.GradientTransformation,
) -> tuple[Array, Array, Float[Array, " K"]]:
    """K steps of gradient descent on (mu, rho), one draw each, from a fresh optimizer state.

    Args:
      mu, rho: where to start.
      eps: standard normal draws, one per step; K = 0 returns the start.
      loss_fn: the negative ELBO of one draw.
      optimizer: usually Adam.

    Returns:
      (mu, rho, losses): the result and the loss before each step, float (K,).

    Cost: K denoiser calls and K vector-Jacobian products.
    """

    def step(carry, eps_k):
        variables, state = carry
        loss, gradient = jax.value_and_grad(lambda v: loss_fn(v["mu"], v["rho"], eps_k))(variables)
        update, state = optimizer.update(gradient, state, variables)
        moved: Any = optax.apply_updates(variables, update)
        return (moved, state), loss

    variables = {"mu": mu, "rho": rho}
    carry = (variables, optimizer.init(variables))
    (variables, _), losses = jax.lax.scan(step, carry, eps)
    return variables["mu"], variables["rho"], losses
