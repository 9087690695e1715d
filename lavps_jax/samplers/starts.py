"""Where the inner fit begins: the block prior, what a network says, or the better of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.networks.amortized import InverseRule, MeanUnit
from lavps_jax.networks.tiled import Model
from lavps_jax.problems.likelihoods import log_likelihood, network_inputs
from lavps_jax.samplers.variational import Block, BlockLossFn
from lavps_jax.types import Params, Problem

__all__ = ["Amortized", "BestOf", "SupervisedStart", "Start", "ZeroShot", "guidance"]


_NUM_CG_STEPS = 10
"""Of `guidance`: a network corrects what they leave."""


class Start(Protocol):
    """Gives (mu, rho) for a block; frozen, hashable, equal by value."""

    def __call__(
        self,
        params: Params,
        problem: Problem,
        block: Block,
        eps: Float[Array, "H W C"],
        loss_fn: BlockLossFn,
    ) -> tuple[Array, Array]:
        """eps is the draw that a comparison of candidates uses, loss_fn what it compares."""
        ...


@dataclass(frozen=True)
class ZeroShot:
    """The block prior itself: mu = prior_mean, rho = log prior_std (MGDM)."""

    def __call__(self, params, problem, block, eps, loss_fn) -> tuple[Array, Array]:
        """Cost: none."""
        rho = jnp.broadcast_to(jnp.log(block.prior_std), block.prior_mean.shape)
        return block.prior_mean, rho


def guidance(problem: Problem, block: Block) -> Float[Array, "H W C"]:
    """A first guess of d_mu in units of prior_std, float (H, W, C), order one at all noise levels.

    (J^T J + sigma_y^2 / s^2 I)^-1 J^T (y - A(x_0)) / s with s = prior_std and J the derivative of
    A at x_0: the shift (mu - m) / s that minimises the negative ELBO of a linear A if the denoiser
    were the identity and x_0 = m (a Gauss-Newton step). It tells the network what A makes of x_0,
    for any differentiable A. Up to `_NUM_CG_STEPS` steps of conjugate gradients.

    Cost: A and its transpose, once and in every step.
    """
    gradient = jax.grad(lambda x_0: log_likelihood(problem, x_0))(block.x_0)
    _, derivative = jax.linearize(problem.operator.forward, block.x_0)
    weight = (problem.sigma_y / block.prior_std) ** 2

    def half_square(shift: Array) -> Array:
        return jnp.sum(jnp.abs(derivative(shift)) ** 2) / 2

    def normal(shift: Array) -> Array:
        return jax.grad(half_square)(shift) + weight * shift

    shift, _ = cg(normal, problem.sigma_y**2 * gradient, tol=1e-3, maxiter=_NUM_CG_STEPS)
    return shift / block.prior_std


@dataclass(frozen=True)
class Amortized:
    """The block prior plus the residual that a network predicts (LAVPS, arXiv:2602.07102).

    mu = prior_mean + d_mu, rho = log prior_std + d_rho with (d_mu, d_rho) from the network.

    Attributes:
      model: (phi, x_0, x_t / sqrt(alpha_bar_t), x_pinv, sigma_t, sigma_tau, [guidance]) ->
        (d_mu, d_rho).
      schedule: noise schedule of the times.
      mean_unit: unit of d_mu, see `AmortizedNetworkConfig`.
      guidance: whether the network is given `guidance` as its last input.
      inverse: how x_pinv is made, see `lavps_jax.problems.likelihoods.as_measurement`.
      sees_measurement: whether the network acts with A on its features.
    """

    model: Model
    schedule: Schedule = Schedule()
    mean_unit: MeanUnit = "image"
    guidance: bool = False
    inverse: InverseRule = "ridge"
    sees_measurement: bool = False

    def __call__(
        self, params, problem, block, eps, loss_fn, dropout_key=None
    ) -> tuple[Array, Array]:
        """Cost: one call of the amortized network."""
        sigma = jnp.asarray(self.schedule.sigma, jnp.float32)
        signal = jnp.asarray(self.schedule.alpha_bar**0.5, jnp.float32)[block.t]
        x_pinv, measurement = network_inputs(problem, self.inverse, self.sees_measurement)
        d_mu, d_rho = self.model(
            params["phi"],
            block.x_0,
            block.x_t / signal,
            x_pinv,
            sigma[block.t],
            sigma[block.tau],
            *((guidance(problem, block),) if self.guidance else ()),
            label=None,  # Starts are learned for the null class.
            measurement=measurement,
            dropout_key=dropout_key,
        )
        mu, rho = ZeroShot()(params, problem, block, eps, loss_fn)
        unit = block.prior_std if self.mean_unit == "prior_std" else 1.0
        return mu + unit * d_mu, rho + d_rho


@dataclass(frozen=True)
class SupervisedStart:
    """The block prior around what a supervised denoiser predicts (arXiv:2602.07102).

    mu = c_l x_t + c_s D(x_t, t; y), where prior_mean = c_l x_t + c_s x_0 is the mean of the bridge
    from t to tau; rho = log prior_std.

    Attributes:
      denoiser: its weights are params["phi"].
    """

    denoiser: SupervisedDenoiser

    def __call__(self, params, problem, block, eps, loss_fn) -> tuple[Array, Array]:
        """Cost: one call of the supervised network."""
        alpha_bar = self.denoiser.schedule.alpha_bar
        left = jnp.asarray(1 - alpha_bar, jnp.float32)
        signal = jnp.asarray(alpha_bar**0.5, jnp.float32)[block.tau]
        c_s = (left[block.t] - left[block.tau]) / (signal * left[block.t])
        x_0 = self.denoiser(params["phi"], block.x_t, problem, block.t)
        mu, rho = ZeroShot()(params, problem, block, eps, loss_fn)
        return mu + c_s * (x_0 - block.x_0), rho


@dataclass(frozen=True)
class BestOf:
    """Of two starts, the one with the lower negative ELBO at the same draw; ties go to the first.

    This is what keeps operators safe on which the amortized network was not trained. The choice is
    made for each image and particle on its own.
    """

    first: Start
    second: Start

    def __call__(self, params, problem, block, eps, loss_fn) -> tuple[Array, Array]:
        """Cost: both starts and two denoiser calls."""
        first = self.first(params, problem, block, eps, loss_fn)
        second = self.second(params, problem, block, eps, loss_fn)
        loss_first, loss_second = loss_fn(*first, eps), loss_fn(*second, eps)
        # A candidate whose loss is not a number loses.
        keep_first = (loss_first <= loss_second) | jnp.isnan(loss_second)
        return jax.tree.map(lambda a, b: jnp.where(keep_first, a, b), first, second)
