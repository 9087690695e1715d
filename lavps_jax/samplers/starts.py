"""Where the inner fit begins: the block prior, a Gauss-Newton step from it, what a network says, or
the better of two."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from lavps_jax.diffusion.bridges import levels
from lavps_jax.diffusion.conditioning import as_measurement, pseudo_inverse
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.diffusion.supervised import SupervisedDenoiser
from lavps_jax.networks.amortized import InverseRule, MeanUnit, ResidualOf
from lavps_jax.networks.tiled import Model
from lavps_jax.problems.problem import Problem, log_likelihood
from lavps_jax.pytrees import Node, static
from lavps_jax.samplers.variational import Block, BlockLossFn
from lavps_jax.types import Weights

_NUM_CG_STEPS = 10
"""Of `gauss_newton_shift`: a network corrects what they leave."""


class Start(Node):
    """Gives (mu, rho), where the fit of a block begins; a pytree whose leaves are weights."""

    def prepare(self, problem: Problem) -> Any:
        """What is the same for all blocks of a problem, computed once."""
        return ()

    def __call__(
        self,
        problem: Problem,
        prepared: Any,
        block: Block,
        eps: Float[Array, "H W C"],
        loss_fn: BlockLossFn,
    ) -> tuple[Array, Array]:
        """eps is the draw that a comparison of candidates uses, loss_fn what it compares."""
        raise NotImplementedError

    def cost(self) -> tuple[int, int]:
        """(denoiser calls, amortized calls) of one block."""
        return 0, 0


class ZeroShot(Start):
    """The block prior itself: mu = prior_mean, rho = log prior_std (MGDM)."""

    def __call__(self, problem, prepared, block, eps, loss_fn) -> tuple[Array, Array]:
        return block_prior(block)


def block_prior(block: Block) -> tuple[Array, Array]:
    """(mu, rho) of the block prior: prior_mean and log prior_std, each float (H, W, C)."""
    rho = jnp.broadcast_to(jnp.log(block.prior_std), block.prior_mean.shape)
    return block.prior_mean, rho


class GaussNewton(Start):
    """A Gauss-Newton step from the block prior towards y: mu = prior_mean + prior_std * shift with
    `gauss_newton_shift`, rho = log prior_std. No derivative goes through the denoiser.

    At little noise, where the denoiser changes little, mu is nearly the mean of the block
    posterior."""

    def __call__(self, problem, prepared, block, eps, loss_fn) -> tuple[Array, Array]:
        mu, rho = block_prior(block)
        return mu + block.prior_std * gauss_newton_shift(problem, block), rho


ZeroShotRule = Literal["prior", "gauss_newton"]


def zero_shot(rule: ZeroShotRule) -> Start:
    """The start of this name, which needs no network."""
    return ZeroShot() if rule == "prior" else GaussNewton()


def gauss_newton_shift(problem: Problem, block: Block) -> Float[Array, "H W C"]:
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


class TrainedBlocks(NamedTuple):
    """The blocks that an amortized network was trained on.

    Attributes:
      num_steps: points of the time grid.
      low_idx, high_idx: range of grid indices of t_prev.
      tau_rule: how the block time follows from t_prev.
      grid_power: how dense the points of the grid lie at little noise.
    """

    num_steps: int
    low_idx: int
    high_idx: int
    tau_rule: str
    grid_power: float = 1.0

    def has_grid(self, num_steps: int, grid_power: float) -> bool:
        """Whether this is the grid of these blocks."""
        return (num_steps, grid_power) == (self.num_steps, self.grid_power)


class Amortized(Start):
    """The block prior plus the residual that a network predicts (LAVPS, arXiv:2602.07102).

    mu = prior_mean + d_mu, rho = log prior_std + d_rho with (d_mu, d_rho) from the network; if it
    learned the residual of the Gauss-Newton step, that is added to d_mu.

    Attributes:
      weights: of the network.
      model: (weights, x_0, x_t / sqrt(alpha_bar_t), x_pinv, sigma_t, sigma_tau, [guidance]) ->
        (d_mu, d_rho), static.
      schedule: noise schedule of the times, static.
      mean_unit: unit of d_mu, see `AmortizedNetworkConfig`, static.
      guidance: whether the network is given `gauss_newton_shift` as its last input, static.
      inverse: how x_pinv is made, see `pseudo_inverse`, static.
      sees_measurement: whether the network acts with A on its features, static.
      trained: on which blocks, static; None if that is not known.
      residual_of: see `AmortizedNetworkConfig`, static.
    """

    weights: Weights
    model: Model = static()
    schedule: Schedule = static(default=Schedule())
    mean_unit: MeanUnit = static(default="image")
    guidance: bool = static(default=False)
    inverse: InverseRule = static(default="ridge")
    sees_measurement: bool = static(default=False)
    trained: TrainedBlocks | None = static(default=None)
    residual_of: ResidualOf = static(default="prior")

    def prepare(self, problem: Problem) -> Float[Array, "H W C"]:
        """A^+ y."""
        return pseudo_inverse(problem, self.inverse)

    def __call__(
        self, problem, prepared, block, eps, loss_fn, dropout_key=None
    ) -> tuple[Array, Array]:
        signal, sigma_t = levels(self.schedule, block.t, jnp.float32)
        _, sigma_tau = levels(self.schedule, block.tau, jnp.float32)
        guidance = gauss_newton_shift(problem, block) if self.guidance else None
        d_mu, d_rho = self.model(
            self.weights,
            block.x_0,
            block.x_t / signal,
            prepared,
            sigma_t,
            sigma_tau,
            *(() if guidance is None else (guidance,)),
            label=None,  # Starts are learned for the null class.
            measurement=as_measurement(problem, self.inverse) if self.sees_measurement else None,
            dropout_key=dropout_key,
        )
        if guidance is not None and self.residual_of == "gauss_newton":
            d_mu = d_mu + guidance
        mu, rho = block_prior(block)
        unit = block.prior_std if self.mean_unit == "prior_std" else 1.0
        return mu + unit * d_mu, rho + d_rho

    def cost(self) -> tuple[int, int]:
        return 0, 1


class SupervisedStart(Start):
    """The block prior around what a supervised denoiser predicts (arXiv:2602.07102).

    mu = c_l x_t + c_s D(x_t, t; y), where prior_mean = c_l x_t + c_s x_0 is the mean of the bridge
    from t to tau; rho = log prior_std.

    Attributes:
      denoiser: the network.
    """

    denoiser: SupervisedDenoiser

    @property
    def schedule(self) -> Schedule:
        """That of the denoiser."""
        return self.denoiser.schedule

    def prepare(self, problem: Problem) -> Any:
        return self.denoiser.prepare(problem)

    def __call__(self, problem, prepared, block, eps, loss_fn) -> tuple[Array, Array]:
        alpha_bar = self.schedule.alpha_bar
        left = jnp.asarray(1 - alpha_bar, jnp.float32)
        signal = jnp.asarray(alpha_bar**0.5, jnp.float32)[block.tau]
        c_s = (left[block.t] - left[block.tau]) / (signal * left[block.t])
        x_0 = self.denoiser(block.x_t, problem, prepared, block.t)
        mu, rho = block_prior(block)
        return mu + c_s * (x_0 - block.x_0), rho

    def cost(self) -> tuple[int, int]:
        return 1, 0


class BestOf(Start):
    """Of two starts, the one with the lower negative ELBO at the same draw; ties go to the first.

    This protects samples of operators that the amortized network was not trained on. The choice is
    made for each image and particle on its own.
    """

    first: Start
    second: Start

    def prepare(self, problem: Problem) -> Any:
        return self.first.prepare(problem), self.second.prepare(problem)

    def __call__(self, problem, prepared, block, eps, loss_fn) -> tuple[Array, Array]:
        first = self.first(problem, prepared[0], block, eps, loss_fn)
        second = self.second(problem, prepared[1], block, eps, loss_fn)
        loss_first, loss_second = loss_fn(*first, eps), loss_fn(*second, eps)
        # A candidate whose loss is not a number loses.
        keep_first = (loss_first <= loss_second) | jnp.isnan(loss_second)
        return jax.tree.map(lambda a, b: jnp.where(keep_first, a, b), first, second)

    def cost(self) -> tuple[int, int]:
        """Both starts and two denoiser calls."""
        calls, amortized = zip(self.first.cost(), self.second.cost(), strict=True)
        return 2 + sum(calls), sum(amortized)
