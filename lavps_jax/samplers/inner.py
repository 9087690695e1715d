"""The inner problem of a block, as MGDM and LAVPS solve it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import optax
from jaxtyping import Array, Float

from lavps_jax.errors import UserError, check_choices
from lavps_jax.samplers.starts import Amortized, BestOf, Start, SupervisedStart, ZeroShot
from lavps_jax.samplers.variational import Block, block_loss, draw, fit
from lavps_jax.types import DenoiseFn, Params, Problem

__all__ = ["Inner", "LearningRateUnit", "block_draw", "start_cost"]

LearningRateUnit = Literal["image", "prior_std"]


@dataclass(frozen=True)
class Inner:
    """How the inner problem of a block is solved.

    Attributes:
      num_inner_steps: Adam steps, K >= 0.
      learning_rate: of Adam, > 0.
      start: where the fit begins.
      learning_rate_unit: "prior_std": the learning rate of a block is `learning_rate` times its
        prior's standard deviation s, so that it fits every number of steps; or "image", as
        published, with 0.01 to 0.03. Adam moves every pixel of mu by about the learning rate,
        whatever the gradient (exactly by it in the first step): where s is much larger, the fit
        ends on its way, and where s has become as small, the steps themselves are noise in x_tau.
        One Adam fits both mu and rho, so the steps of rho, a logarithm, shrink with s as well.
    """

    num_inner_steps: int = 1
    learning_rate: float = 0.5
    start: Start = ZeroShot()
    learning_rate_unit: LearningRateUnit = "prior_std"

    def __post_init__(self):
        check_choices(self)
        if self.num_inner_steps < 0:
            raise UserError("num_inner_steps", self.num_inner_steps, "use 0 or more")
        if not self.learning_rate > 0:
            raise UserError("learning_rate", self.learning_rate, "use a positive number")

    def learning_rates(self, prior_std: np.ndarray | Array) -> np.ndarray:
        """Of blocks with these prior standard deviations, in the units of the image."""
        std = np.asarray(prior_std)
        unit = std if self.learning_rate_unit == "prior_std" else np.ones_like(std)
        return self.learning_rate * unit


def block_draw(
    elbo: Float[Array, "K H W C"],
    eps: Float[Array, "H W C"],
    denoise_fn: DenoiseFn,
    params: Params,
    problem: Problem,
    block: Block,
    inner: Inner,
    learning_rate: Float[Array, ""],
) -> Float[Array, "H W C"]:
    """x_tau from the fitted posterior of a block.

    Args:
      elbo: standard normal, one per loss and at least one, which also compares candidate starts.
      eps: standard normal, of the draw.
      learning_rate: of the inner Adam, in the units of the image.
    """

    def loss_fn(mu, rho, eps):
        return block_loss(mu, rho, eps, denoise_fn, params, problem, block)

    mu, rho = inner.start(params, problem, block, elbo[0], loss_fn)
    optimizer = optax.adam(learning_rate)
    mu, rho, _ = fit(mu, rho, elbo[: inner.num_inner_steps], loss_fn, optimizer)
    return draw(eps, mu, rho)


def start_cost(start: Start) -> tuple[int, int]:
    """(denoiser calls, amortized calls) of a start."""
    match start:
        case Amortized():
            return 0, 1
        case SupervisedStart():
            return 1, 0
        case BestOf():
            both = [start_cost(start.first), start_cost(start.second)]
            return 2 + sum(c for c, _ in both), sum(a for _, a in both)
        case _:
            return 0, 0
