"""The numbers of MGDM's steps. Method section 4."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.bridges import BridgeCoefficients, bridge_coefficients, bridges_between
from lavps_jax.diffusion.schedules import Schedule, even_grid_float32
from lavps_jax.samplers.inner import Inner
from lavps_jax.samplers.variational import Block

TauRule = Literal["previous", "midpoint", "three_quarters", "uniform", "mix"]


class MGDMRow(NamedTuple):
    """The numbers of one step with one block time tau: of NumPy on the host, of JAX in a step.

    Attributes:
      t, tau: time indices, int ().
      learning_rate: of the inner Adam, float ().
      bridge: x_t ~ q(x_t | x_0, x_{t_next}).
      prior: block prior q(x_tau | x_0, x_t), eta = 1.
      renoise: x_t ~ q(x_t | x_tau, x_{t_next}), eta = 1.
      ddim_times: times of the DDIM steps from tau to 0, int (M',).
      ddim: their bridges, coefficients (M',).
    """

    t: Any
    tau: Any
    learning_rate: Any
    bridge: BridgeCoefficients
    prior: BridgeCoefficients
    renoise: BridgeCoefficients
    ddim_times: Any
    ddim: BridgeCoefficients


class TauChoices(NamedTuple):
    """The numbers of one step for each block time tau that it may draw.

    Attributes:
      count: how many block times there are, int (); entries behind them repeat the last one.
      choices: the numbers, leaves (U, ...).
    """

    count: Any
    choices: MGDMRow

    def choose(self, u: Float[Array, ""]) -> MGDMRow:
        """The one at the place u of [0, 1)."""
        size = len(self.choices.tau)
        index = 0 if size == 1 else jnp.minimum((u * self.count).astype(int), self.count - 1)
        return jax.tree.map(lambda leaf: leaf[index], self.choices)


def block_times(rule: TauRule, t_prev: int, min_tau: int, *, is_mixed: bool) -> list[int]:
    """The block times that a step to t_prev may draw, see `MGDM`; `is_mixed` says of the rule "mix"
    whether it still draws."""
    drawn = list(range(min_tau, t_prev)) or [t_prev]
    match rule:
        case "previous":
            return [t_prev]
        case "midpoint":
            return [max(t_prev // 2, 1)]
        case "three_quarters":
            return [max(3 * t_prev // 4, 1)]
        case "uniform":
            return drawn
        case "mix":
            return drawn if is_mixed else [t_prev]


def mgdm_rows(
    t: np.ndarray,
    t_next: np.ndarray,
    tau: np.ndarray,
    inner: Inner,
    eta: Any,
    num_ddim_steps: int,
    schedule: Schedule,
) -> MGDMRow:
    """The numbers of n steps with U block times each, leaves (n, U, ...).

    Args:
      t, t_next: times, int (n,).
      tau: block times, int (n, U).
      inner: how blocks are solved.
      eta: stochasticity of the first bridge and of DDIM.
      num_ddim_steps: M.
      schedule: noise schedule.
    """
    table = schedule.alpha_bar
    t, t_next = (np.broadcast_to(times[:, None], tau.shape) for times in (t, t_next))
    prior = bridge_coefficients(table, 0, tau, t, 1.0)
    # A single prediction reads nothing of its grid.
    grids = [_ddim_grid(int(time), num_ddim_steps) for time in np.ravel(tau)]
    grid = np.reshape(grids, (*tau.shape, -1))
    return MGDMRow(
        t=t,
        tau=tau,
        learning_rate=inner.learning_rates(np.asarray(prior.std)),
        bridge=bridge_coefficients(table, 0, t, t_next, eta),
        prior=prior,
        renoise=bridge_coefficients(table, tau, t, t_next, 1.0),
        ddim_times=grid[..., :-1],
        ddim=bridges_between(table, grid[..., 1:], grid[..., :-1], eta),
    )


def _ddim_grid(tau: int, num_ddim_steps: int) -> np.ndarray:
    """Times from tau down to 0, min(M, tau + 1) of them; repeats of tau in front fill it up, so
    that all grids have one length, max(M, 2)."""
    count = max(min(num_ddim_steps, tau + 1), 2)
    grid = even_grid_float32(0, tau, count).astype(np.int64)[::-1]
    return np.pad(grid, (max(num_ddim_steps, 2) - count, 0), mode="edge")


def make_block(row: MGDMRow, x_0: Float[Array, "H W C"], x_t: Float[Array, "H W C"]) -> Block:
    """The inner problem of a step: its prior is q(x_tau | x_0, x_t)."""
    mean = jnp.asarray(row.prior.c_l) * x_t + jnp.asarray(row.prior.c_s) * x_0
    return Block(x_0, x_t, mean, jnp.asarray(row.prior.std), row.t, row.tau)
