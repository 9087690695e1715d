"""How MGDM and LAVPS solve a block: the settings, and start, fit and draw in one call."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import optax
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.errors import check_at_least, check_choices, check_positive
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import Node, static
from lavps_jax.samplers.starts import Start
from lavps_jax.samplers.variational import Block, block_loss, draw, fit

LearningRateUnit = Literal["image", "prior_std"]


class Inner(Node):
    """How the inner problem of a block is solved.

    With the unit "prior_std" the learning rate of a block is `learning_rate` times its prior's
    standard deviation s, so that it fits every number of steps; "image" is as published, with 0.01
    to 0.03. Adam moves every pixel of mu by about the learning rate, whatever the gradient (exactly
    by it in the first step): where s is much larger, the fit ends on its way, and where s has
    become as small, the steps themselves are noise in x_tau. One Adam fits both mu and rho, so the
    steps of rho, a logarithm, shrink with s as well.

    Attributes:
      num_inner_steps: Adam steps on the negative ELBO, K >= 0.
      learning_rate: of Adam, > 0.
      learning_rate_unit: prior_std: times the standard deviation of the block prior; image: as it
        is, as published.
    """

    num_inner_steps: int = static(default=1)
    learning_rate: float = 0.5
    learning_rate_unit: LearningRateUnit = static(default="prior_std")

    def __post_init__(self):
        check_choices(self)

    def check(self, name: str) -> None:
        """Raises a UserError if a number is out of range, of the sampler's field of this name."""
        check_at_least(f"{name}.num_inner_steps", self.num_inner_steps, 0)
        check_positive(f"{name}.learning_rate", self.learning_rate)

    def learning_rates(self, prior_std: np.ndarray) -> Any:
        """Of blocks with these prior standard deviations, in the units of the image."""
        in_std = self.learning_rate_unit == "prior_std"
        return self.learning_rate * (prior_std if in_std else np.ones_like(prior_std))


def block_draw(
    loss_eps: Float[Array, "K H W C"],
    eps: Float[Array, "H W C"],
    prior: Denoiser,
    problem: Problem,
    block: Block,
    start: Start,
    prepared: Any,
    num_inner_steps: int,
    learning_rate: Float[Array, ""],
) -> Float[Array, "H W C"]:
    """x_tau from the fitted posterior of a block.

    Args:
      loss_eps: standard normal, one per loss; the first, which is always there, also compares
        candidate starts.
      eps: standard normal, of the draw.
      start: where the fit begins, with what its `prepare` returned.
      num_inner_steps: of Adam, K.
      learning_rate: of Adam, in the units of the image.
    """

    def loss_fn(mu, rho, eps):
        return block_loss(mu, rho, eps, prior, problem, block)

    mu, rho = start(problem, prepared, block, loss_eps[0], loss_fn)
    optimizer = optax.adam(learning_rate)
    mu, rho, _ = fit(mu, rho, loss_eps[:num_inner_steps], loss_fn, optimizer)
    return draw(eps, mu, rho)
