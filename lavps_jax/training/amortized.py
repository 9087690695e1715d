"""Loss of the amortized network, on blocks of the forward process or of the sampler's own runs.

Method section 5. The published training shows the network blocks whose x_t is the training image
plus noise. A sampler at low noise never sees such blocks: its x_t stems from its own estimates,
whose errors it carries from step to step. `ChainLoss` trains on the blocks that the sampler meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.bridges import add_noise, bridge_draw
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.parameterisations import SIGMA_DATA
from lavps_jax.diffusion.schedules import time_grid
from lavps_jax.operators.families import OperatorFamily
from lavps_jax.operators.families.base import Setting
from lavps_jax.problems.problem import Problem
from lavps_jax.samplers.mgdm import MGDM
from lavps_jax.samplers.mgdm_rows import MGDMRow, TauRule, make_block
from lavps_jax.samplers.starts import Amortized, block_prior
from lavps_jax.samplers.variational import Block, block_loss, draw, loss_and_image
from lavps_jax.training.losses import Loss, draw_problem
from lavps_jax.types import PRNGKey, Weights

BlockWeight = Literal["none", "expected_residual"]


@dataclass(frozen=True)
class AmortizedLoss(Loss):
    """Negative ELBO of the amortized start on a random block of the sampler's grid, nats.

    An operator of the family and noise for every image; grid index i uniform in
    [low_idx, high_idx); t_prev = times[i], t = times[i + 1], and tau is t_prev or what `tau_rule`
    makes of it; x_t from the forward process, and the denoiser's x_0_hat in the place of the
    sampler's x_0. `frozen` is the prior. The metrics hold the unweighted L and L at the
    block prior with the same draw: their ratio says what the network gains.

    Attributes:
      start: the network that is trained, as the sampler uses it, without weights.
      operator: what the operators of training are drawn from.
      sigma_y: standard deviation of the measurement noise, or a range of it.
      num_steps: points of the sampler's time grid.
      low_idx, high_idx: range of grid indices of t_prev.
      tau_rule: how the sampler chooses tau, see `MGDM`; one that draws nothing.
      weight: see `block_weight`; "none" is the published loss.
      grid_power: how dense the points of the time grid lie at little noise.
    """

    start: Amortized
    operator: OperatorFamily
    sigma_y: Setting
    num_steps: int
    low_idx: int
    high_idx: int
    tau_rule: TauRule
    weight: BlockWeight = "none"
    grid_power: float = 1.0

    @property
    def times(self) -> np.ndarray:
        """The time grid, int (num_steps,)."""
        return time_grid(self.num_steps, self.start.schedule, self.grid_power)

    # Starts are learned for the null class: the label is that of other losses.
    def __call__(
        self, weights: Weights, rng_key: PRNGKey, frozen: Denoiser, x_0, carry, *, train, label=None
    ):
        key_problem, key_index, key_noise, key_eps, key_dropout = jax.random.split(rng_key, 5)
        problem = self.problem(key_problem, x_0)
        row = self.row(jax.random.randint(key_index, (), self.low_idx, self.high_idx))
        noise = jax.random.normal(key_noise, x_0.shape)
        x_t = add_noise(noise, x_0, row.t, self.start.schedule)
        x_0_hat = jax.lax.stop_gradient(frozen(x_t, row.t))
        block = make_block(row, x_0_hat, x_t)
        dropout_key = key_dropout if train else None
        eps = jax.random.normal(key_eps, x_0.shape)
        prepared = self.start.prepare(problem)
        loss, metrics, *_ = self.on_block(
            weights, frozen, problem, prepared, block, eps, dropout_key
        )
        at_prior = block_loss(*block_prior(block), eps, frozen, problem, block)
        return loss, metrics | {"block_loss_at_prior": jax.lax.stop_gradient(at_prior)}, carry

    def problem(self, rng_key: PRNGKey, x_0: Float[Array, "H W C"]) -> Problem:
        """A measurement of x_0 by an operator of the family."""
        key_operator, key_y = jax.random.split(rng_key)
        return draw_problem(key_operator, key_y, x_0, self.operator, self.sigma_y)

    def row(self, index: Int[Array, ""]) -> MGDMRow:
        """The sampler's numbers of the step whose t_prev has this grid index."""
        sampler = MGDM(
            low_idx=1,
            high_idx=1,
            num_steps=self.num_steps,
            grid_power=self.grid_power,
            tau_rule=self.tau_rule,
        )
        # Noisiest first, so index 1 comes last.
        (segment,) = sampler.plan(self.start.schedule)
        return jax.tree.map(lambda leaf: leaf[len(leaf) - index, 0], segment.rows.choices)

    def on_block(
        self,
        weights: Weights,
        prior: Denoiser,
        problem: Problem,
        prepared: Any,
        block: Block,
        eps: Float[Array, "H W C"],
        dropout_key: PRNGKey | None,
    ) -> tuple[Float[Array, ""], dict[str, Array], Array, Array]:
        """(loss, metrics, x_tau, x_0) of one block: x_tau is the draw that the loss was taken at,
        x_0 that denoised, both (H, W, C); `prepared` is what the start prepares of the problem."""

        def loss_fn(mu, rho, eps):
            return block_loss(mu, rho, eps, prior, problem, block)

        start = self.start.replace(weights=weights)
        mu, rho = start(problem, prepared, block, eps, loss_fn, dropout_key=dropout_key)
        loss, x_0 = loss_and_image(mu, rho, eps, prior, problem, block)
        metrics = {"block_loss": jax.lax.stop_gradient(loss)}
        if self.weight == "expected_residual":
            sigma = jnp.asarray(self.start.schedule.sigma, jnp.float32)[block.tau]
            loss = loss * block_weight(sigma, problem.sigma_y)
        return loss, metrics, draw(eps, mu, rho), x_0


def block_weight(
    sigma_tau: Float[Array, ""], sigma_y: float | Float[Array, ""]
) -> Float[Array, ""]:
    """sigma_y^2 / (sigma_y^2 + v), v = sigma_tau^2 sigma_d^2 / (sigma_tau^2 + sigma_d^2), float ().

    v is the variance of a pixel of x_0 given x_tau if pixels were independent with variance
    sigma_d^2 = 0.25. Without it blocks of much noise, where the squared residual is hundreds of
    times sigma_y^2, decide the gradient alone.
    """
    variance = sigma_tau**2 * SIGMA_DATA**2 / (sigma_tau**2 + SIGMA_DATA**2)
    return sigma_y**2 / (sigma_y**2 + variance)


class Chain(NamedTuple):
    """A run of the sampler on one training image, between two of its steps.

    Attributes:
      problem: what was measured of the image.
      prepared: what the start has prepared of it.
      x_t: the state at times[index + 2], float (H, W, C).
      x_0: current estimate of the clean image, float (H, W, C).
      index: grid index of the next block's t_prev, int32 (); low_idx - 1 once the run is over.
    """

    problem: Problem
    prepared: Any
    x_t: Float[Array, "H W C"]
    x_0: Float[Array, "H W C"]
    index: Int[Array, ""]


@dataclass(frozen=True)
class ChainLoss(Loss):
    """The loss of `AmortizedLoss` along the sampler's own runs with K = 0.

    A run enters at high_idx - 1 from the forward process, and every training step takes it one
    block further with the network as it is then. No gradient flows from block to block. As
    a validation score this is the loss on the forward process, which weights don't change.
    """

    blocks: AmortizedLoss

    @property
    def top_idx(self) -> int:
        """Grid index of the first block of a run."""
        return self.blocks.high_idx - 1

    def __call__(
        self, weights: Weights, rng_key: PRNGKey, frozen: Denoiser, x_0, carry, *, train, label=None
    ):
        if not train:
            return self.blocks(weights, rng_key, frozen, x_0, carry, train=False)
        return self.advance(weights, rng_key, frozen, carry)

    def begin(self, rng_key: PRNGKey, frozen: Denoiser, x_0: Array) -> Chain:
        """A run that enters at a random index: how training begins, so that runs end in turn."""
        key_index, key = jax.random.split(rng_key)
        index = jax.random.randint(key_index, (), self.blocks.low_idx, self.blocks.high_idx)
        return self.enter(key, frozen, x_0, index)

    def enter(
        self,
        rng_key: PRNGKey,
        prior: Denoiser,
        x_0: Float[Array, "H W C"],
        index: int | Int[Array, ""],
    ) -> Chain:
        """A run on a new image, about to pose the block of this grid index."""
        key_problem, key_noise = jax.random.split(rng_key)
        t_next = jnp.asarray(self.blocks.times)[index + 2]
        noise = jax.random.normal(key_noise, x_0.shape)
        x_t = add_noise(noise, x_0, t_next, self.blocks.start.schedule)
        problem = self.blocks.problem(key_problem, x_0)
        prepared = self.blocks.start.prepare(problem)
        return Chain(problem, prepared, x_t, prior(x_t, t_next), jnp.asarray(index, jnp.int32))

    def advance(
        self, weights: Weights, rng_key: PRNGKey, prior: Denoiser, chain: Chain
    ) -> tuple[Float[Array, ""], dict[str, Array], Chain]:
        """(loss, metrics, chain): the loss of the next block, and the run after it."""
        key_bridge, key_eps, key_renoise, key_dropout = jax.random.split(rng_key, 4)
        row = self.blocks.row(chain.index)
        shape = chain.x_t.shape
        x_t = bridge_draw(jax.random.normal(key_bridge, shape), row.bridge, chain.x_t, chain.x_0)
        block = make_block(row, chain.x_0, x_t)
        eps = jax.random.normal(key_eps, shape)
        loss, metrics, *images = self.blocks.on_block(
            weights, prior, chain.problem, chain.prepared, block, eps, key_dropout
        )
        x_tau, x_0 = jax.lax.stop_gradient(images)
        x_t = bridge_draw(jax.random.normal(key_renoise, shape), row.renoise, chain.x_t, x_tau)
        return loss, metrics, chain._replace(x_t=x_t, x_0=x_0, index=chain.index - 1)

    def is_over(self, chain: Chain) -> Array:
        """Whether the run has posed its last block, bool ()."""
        return chain.index < self.blocks.low_idx

    def renew(self, rng_keys: PRNGKey, frozen: Denoiser, images: Array, carry: Chain) -> Chain:
        """The runs with those that are over, or not finite, replaced by new ones on the batch."""
        finite = jnp.isfinite(carry.x_t).all((1, 2, 3)) & jnp.isfinite(carry.x_0).all((1, 2, 3))
        over = jax.vmap(self.is_over)(carry) | ~finite
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(rng_keys)

        def replaced():
            enter = jax.vmap(lambda key, x_0: self.enter(key, frozen, x_0, self.top_idx))
            pick = jax.vmap(lambda is_over, *both: jax.tree.map(partial(jnp.where, is_over), *both))
            return pick(over, enter(keys, images), carry)

        # Most steps end no run: the new ones' denoiser calls are worth a branch.
        return jax.lax.cond(jnp.any(over), replaced, lambda: carry)
