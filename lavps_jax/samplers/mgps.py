"""MGPS: every step passes through a fitted midpoint (Moufad et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion import bridge_draw, denoise
from lavps_jax.errors import UserError
from lavps_jax.samplers.base import Cost, Plan, Segment, State, check_schedule, on_device
from lavps_jax.samplers.ddim import ddim_times
from lavps_jax.samplers.inner import Inner, block_draw, start_cost
from lavps_jax.schedules import BridgeCoefficients, Schedule, bridge_coefficients
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem
from lavps_jax.variational import Block

__all__ = ["MGPS", "MGPSNoise", "MGPSRow"]


class MGPSRow(NamedTuple):
    """A group of steps from time t to t_prev through tau; leaves (G,), the last one refined.

    Attributes:
      t, tau, t_prev: int.
      learning_rate: of the inner Adam, float.
      prior: of the midpoint, q(x_tau | x_0, x_t).
      bridge: x_{t_prev} ~ q(x_{t_prev} | x_tau, x_t).
    """

    t: Any
    tau: Any
    t_prev: Any
    learning_rate: Any
    prior: BridgeCoefficients
    bridge: BridgeCoefficients


class MGPSNoise(NamedTuple):
    """Standard normal draws of one group of steps.

    Attributes:
      elbo: one per loss of the steps before the last one, float (G - 1, max(K, 1), H, W, C).
      elbo_refined: the same of the last one, float (max(K, 1), H, W, C).
      x_tau, bridge: of all steps, float (G, H, W, C).
    """

    elbo: Array
    elbo_refined: Array
    x_tau: Array
    bridge: Array


@dataclass(frozen=True)
class MGPS:
    """Midpoint-guided posterior sampling (Moufad et al., ICLR 2025, arXiv:2410.09945, algorithm 1).

    A step from t to t_prev goes through tau = floor(midpoint t_prev): with x_0_hat = D(x_t, t), a
    diagonal Gaussian is fitted to q(x_tau | x_0_hat, x_t) l(y | D(x_tau, tau)), x_tau is a draw of
    it, and x_{t_prev} ~ q(x_{t_prev} | x_tau, x_t). The last prediction is the sample.

    The fit is that of MGDM, which came later: Adam on the negative ELBO with one draw a step, from
    the prior of the midpoint on. What the authors set for images is the default: 2 steps, 20 at
    every tenth diffusion step, which is counted from the last one backwards here.

    Attributes:
      denoise_fn: the prior.
      inner: how midpoints are fitted.
      inner_refined: the same at every `refine_every`-th step.
      refine_every: G, at least 1.
      num_steps: points of the time grid; num_steps - 2 steps.
      midpoint: alpha of tau, in [0, 1]; tau is at least 1.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    inner: Inner = Inner(2)
    inner_refined: Inner = Inner(20)
    refine_every: int = 10
    num_steps: int = 300
    midpoint: float = 0.5
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        if self.refine_every < 1:
            raise UserError("refine_every", self.refine_every, "use at least 1")
        if not 0 <= self.midpoint <= 1:
            raise UserError("midpoint", self.midpoint, "use a number in [0, 1]")

    def plan(self) -> Plan:
        """Groups of `refine_every` steps, after a shorter one where they do not come out even."""
        t, t_prev = ddim_times(self.num_steps, self.schedule)
        tau = np.maximum(np.floor(self.midpoint * t_prev).astype(int), 1)
        table = self.schedule.alpha_bar
        prior = bridge_coefficients(table, 0, tau, t, 1.0)
        refined = np.arange(len(t))[::-1] % self.refine_every == 0
        rows = MGPSRow(
            t=t,
            tau=tau,
            t_prev=t_prev,
            learning_rate=np.where(
                refined,
                self.inner_refined.learning_rates(prior.std),
                self.inner.learning_rates(prior.std),
            ),
            prior=prior,
            bridge=bridge_coefficients(table, tau, t_prev, t, 1.0),
        )
        rest = len(t) % self.refine_every
        first = jax.tree.map(lambda leaf: leaf[None, :rest], rows)
        others = jax.tree.map(lambda leaf: leaf[rest:].reshape(-1, self.refine_every), rows)
        # The number of steps in a group decides the program.
        groups = [(first, rest), (others, self.refine_every)]
        return tuple(Segment(on_device(group), size) for group, size in groups if group.t.size)

    def cost(self) -> Cost:
        """One call at the start; a step has one, those of its start, and one per gradient step."""
        steps = self.num_steps - 2
        refined = -(-steps // self.refine_every)
        calls, vjps, amortized = 1 + steps, 0, 0
        for inner, count in ((self.inner_refined, refined), (self.inner, steps - refined)):
            comparison, network = start_cost(inner.start)
            calls += count * (comparison + inner.num_inner_steps)
            vjps += count * inner.num_inner_steps
            amortized += count * network
        return Cost(calls, vjps, amortized)

    def check(self, problem: Problem) -> None:
        """Takes any problem."""

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I) at the last grid time, and its denoised image."""
        last = jnp.asarray(self.schedule.num_times - 1)
        return State(eps, denoise(self.denoise_fn, params, problem, eps, last))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> MGPSNoise:
        """The draws of one group of steps."""
        size = segment.settings
        counts = [max(inner.num_inner_steps, 1) for inner in (self.inner, self.inner_refined)]
        shapes = [(size - 1, counts[0]), (counts[1],), (size,), (size,)]
        keys = jax.random.split(rng_key, len(shapes))
        return MGPSNoise(
            *(
                jax.random.normal(key, (*shape, *x_shape))
                for key, shape in zip(keys, shapes, strict=True)
            )
        )

    def step(self, noise: MGPSNoise, state, params, problem, segment, row: MGPSRow) -> State:
        """One group of steps; the state's x_0 is the prediction at the time of its x_t."""

        def once(inner, state, elbo, x_tau, bridge, row: MGPSRow) -> State:
            mean = row.prior.c_l * state.x_t + row.prior.c_s * state.x_0
            std = jnp.asarray(row.prior.std)
            block = Block(state.x_0, state.x_t, mean, std, row.t, row.tau)
            x_tau = block_draw(
                elbo, x_tau, self.denoise_fn, params, problem, block, inner, row.learning_rate
            )
            x_t = bridge_draw(bridge, row.bridge, state.x_t, x_tau)
            return State(x_t, denoise(self.denoise_fn, params, problem, x_t, row.t_prev))

        def scanned(state: State, xs) -> tuple[State, None]:
            return once(self.inner, state, *xs), None

        *before, last = range(segment.settings)
        cut = jax.tree.map(lambda leaf: leaf[: len(before)], (noise.x_tau, noise.bridge, row))
        state, _ = jax.lax.scan(scanned, state, (noise.elbo, *cut))
        end = jax.tree.map(lambda leaf: leaf[last], (noise.x_tau, noise.bridge, row))
        return once(self.inner_refined, state, noise.elbo_refined, *end)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0."""
        return state.x_0
