"""MGDM, and LAVPS, which is MGDM whose inner fits begin at an amortized start.

MGDM: Janati et al., ICML 2025, arXiv:2502.03332. LAVPS: Zheng et al., arXiv:2602.07102.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import bridge_draw, denoise
from lavps_jax.diffusion.schedules import (
    BridgeCoefficients,
    Schedule,
    bridge_coefficients,
    even_grid_float32,
    time_grid,
)
from lavps_jax.errors import UserError, check_choices
from lavps_jax.samplers.base import Cost, Plan, Segment, State, check_schedule, on_device
from lavps_jax.samplers.inner import Inner, block_draw, start_cost
from lavps_jax.samplers.variational import Block
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = [
    "MGDM",
    "MGDMNoise",
    "MGDMRow",
    "MGDMRows",
    "TauRule",
    "make_block",
]

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
    ddim_times: np.ndarray | Int[Array, " M"]
    ddim: BridgeCoefficients


class MGDMRows(NamedTuple):
    """One step for each tau that it may draw, all known beforehand.

    Attributes:
      count: how many there are, int (); entries behind them repeat the last one.
      rows: their numbers, leaves (U, ...).
    """

    count: Any
    rows: MGDMRow

    def choose(self, u: Float[Array, ""]) -> MGDMRow:
        """The one at the place u of [0, 1)."""
        size = len(self.rows.tau)
        index = 0 if size == 1 else jnp.minimum((u * self.count).astype(int), self.count - 1)
        return jax.tree.map(lambda leaf: leaf[index], self.rows)


class GibbsNoise(NamedTuple):
    """Standard normal draws of one Gibbs repetition.

    Attributes:
      elbo: one per loss; the first also compares candidate starts, float (max(K, 1), H, W, C).
      x_tau: float (H, W, C).
      ddim: float (M', H, W, C).
      renoise: float (H, W, C).
    """

    elbo: Array
    x_tau: Array
    ddim: Array
    renoise: Array


class MGDMNoise(NamedTuple):
    """The draws of one step.

    Attributes:
      tau: which block time, uniform in [0, 1), float ().
      bridge: of the first bridge, standard normal, float (H, W, C).
      gibbs: of the R repetitions, on axis 0.
    """

    tau: Float[Array, ""]
    bridge: Array
    gibbs: GibbsNoise


@dataclass(frozen=True)
class MGDM:
    """Mixture-guided diffusion: alternates a fitted block posterior at tau with re-noising.

    Per step, for grid times t_next > t > t_prev >= tau: x_t from the bridge; R times: a diagonal
    Gaussian fitted to the block posterior of x_tau, a draw of it, x_0 by denoising it, and x_t by
    re-noising it. Method section 4.

    The defaults were chosen here, for any number of steps at sigma_y of about .05; from about 20 on
    samples then fit y nearly as the true image does, and also at larger sigma_y. At .001 residuals
    stay 29 times too large with 100 steps (half of independent Gaussian pixels seen). The published
    settings have `inner` and `inner_low_noise` of `Inner(K, 0.03, learning_rate_unit="image")`,
    tau_rule "previous", and high_idx 10, 20 or 30.

    Attributes:
      denoise_fn: the prior.
      inner: how blocks are solved whose t_prev has a grid index outside [low_idx, high_idx).
      inner_low_noise: the same inside of it, at the low-noise end. LAVPS has a start with an
        amortized network here.
      low_idx, high_idx: the range of grid indices of `inner_low_noise`; None ends it at half of
        the grid, num_steps // 2.
      num_steps: points of the time grid, n; a run has n - 3 steps.
      num_gibbs: repetitions, R.
      num_ddim_steps: points of the time grid from 0 to tau on which x_tau is denoised, M; 1 is a
        single prediction.
      eta: stochasticity of the first bridge and of DDIM.
      tau_rule: block time from t_prev: itself, its half, or three quarters of it; "uniform" draws
        an integer from [min_tau, t_prev) for each step and particle (t_prev itself where there is
        none); "mix" does so in the first num_mixed_steps steps and then takes t_prev.
      min_tau, num_mixed_steps: of the last two rules.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    inner: Inner = Inner()
    inner_low_noise: Inner = Inner(10)
    low_idx: int = 1
    high_idx: int | None = None
    num_steps: int = 100
    num_gibbs: int = 1
    num_ddim_steps: int = 1
    eta: float = 1.0
    tau_rule: TauRule = "midpoint"
    min_tau: int = 10
    num_mixed_steps: int = 70
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_choices(self)
        check_schedule(self.denoise_fn, self.schedule)
        if not 4 <= self.num_steps <= self.schedule.num_times:
            raise UserError("num_steps", self.num_steps, f"use 4 to {self.schedule.num_times}")
        for name in ("num_gibbs", "num_ddim_steps", "min_tau"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "use at least 1")
        if self.num_mixed_steps < 0:
            raise UserError("num_mixed_steps", self.num_mixed_steps, "use 0 or more")
        if not 0 <= self.eta <= 1:
            raise UserError("eta", self.eta, "use a number in [0, 1]")
        if not 1 <= self.low_idx <= self._end_of_low_noise:
            value = (self.low_idx, self._end_of_low_noise)
            raise UserError("low_idx, high_idx", value, "use 1 <= low_idx <= high_idx")

    @property
    def _end_of_low_noise(self) -> int:
        return self.num_steps // 2 if self.high_idx is None else self.high_idx

    def _blocks(self) -> list[tuple[Inner, range]]:
        """Grid indices of t_prev from the noisiest on, with the inner problem's settings."""
        top = self.num_steps - 3
        low, high = min(self.low_idx, top + 1), min(self._end_of_low_noise, top + 1)
        parts = [
            (self.inner, range(top, high - 1, -1)),
            (self.inner_low_noise, range(high - 1, low - 1, -1)),
            (self.inner, range(low - 1, 0, -1)),
        ]
        return [(inner, indices) for inner, indices in parts if len(indices)]

    def plan(self) -> Plan:
        """One segment for each stretch of equal inner settings, noisiest first."""
        times = time_grid(self.num_steps, self.schedule)
        top_idx, segments = self.num_steps - 3, []
        for inner, indices in self._blocks():
            taus = [self._taus(int(times[i]), top_idx - i) for i in indices]
            size = max(map(len, taus))
            steps = []
            for i, choices in zip(indices, taus, strict=True):
                padded = np.pad(choices, (0, size - len(choices)), mode="edge")
                rows = self._row(times, i, padded, inner)
                steps.append(MGDMRows(np.asarray(len(choices)), rows))
            segments.append(Segment(on_device(_stack(steps)), inner))
        return tuple(segments)

    def _taus(self, t_prev: int, step: int) -> list[int]:
        """The block times that a step may draw; step 0 is the noisiest."""
        drawn = list(range(self.min_tau, t_prev)) or [t_prev]
        match self.tau_rule:
            case "previous":
                return [t_prev]
            case "midpoint":
                return [max(t_prev // 2, 1)]
            case "three_quarters":
                return [max(3 * t_prev // 4, 1)]
            case "uniform":
                return drawn
            case "mix":
                return drawn if step < self.num_mixed_steps else [t_prev]

    def _row(self, times: np.ndarray, index: int, tau: np.ndarray, inner: Inner) -> MGDMRow:
        """Leaves (U, ...) for U block times."""
        t, t_next = (np.full(len(tau), time) for time in times[index + 1 : index + 3])
        table = self.schedule.alpha_bar
        # A single prediction reads nothing of its grid.
        single = self._ddim(1) if self.num_ddim_steps == 1 else None
        ddim_times, ddim = _stack([single or self._ddim(int(one)) for one in tau])
        prior = bridge_coefficients(table, 0, tau, t, 1.0)
        return MGDMRow(
            t=t,
            tau=tau,
            learning_rate=inner.learning_rates(prior.std),
            bridge=bridge_coefficients(table, 0, t, t_next, self.eta),
            prior=prior,
            renoise=bridge_coefficients(table, tau, t, t_next, 1.0),
            ddim_times=ddim_times,
            ddim=ddim,
        )

    def _ddim(self, tau: int) -> tuple[np.ndarray, BridgeCoefficients]:
        """DDIM from tau to 0 on min(M, tau + 1) integer times; too few are filled up in front by
        steps that leave x as it is, so that all rows have equal shapes."""
        count = max(min(self.num_ddim_steps, tau + 1), 2)
        grid = even_grid_float32(0, tau, count).astype(np.int64)[::-1]
        coefficients = bridge_coefficients(
            self.schedule.alpha_bar, 0, grid[1:], grid[:-1], self.eta
        )
        missing = max(self.num_ddim_steps, 2) - count
        stay = BridgeCoefficients(np.ones(missing), np.zeros(missing), np.zeros(missing))
        times = np.concatenate([np.full(missing, tau), grid[:-1]])
        return times, BridgeCoefficients(*map(np.concatenate, zip(stay, coefficients, strict=True)))

    def cost(self) -> Cost:
        """Evaluations per particle of one run."""
        calls, vjps, amortized = 1, 0, 0
        denoising = max(self.num_ddim_steps - 1, 1)
        for inner, indices in self._blocks():
            repeats = len(indices) * self.num_gibbs
            comparison, network = start_cost(inner.start)
            calls += repeats * (comparison + inner.num_inner_steps + denoising)
            vjps += repeats * inner.num_inner_steps
            amortized += repeats * network
        return Cost(calls, vjps, amortized)

    def check(self, problem: Problem) -> None:
        """Takes any problem."""

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I) at the last grid time, and its denoised image."""
        last = jnp.asarray(self.schedule.num_times - 1)
        return State(eps, denoise(self.denoise_fn, params, problem, eps, last))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> MGDMNoise:
        """The draws of one step, each with its own key."""
        *keys, key_tau = jax.random.split(rng_key, 6)
        repeats = self.num_gibbs
        num_losses = max(segment.settings.num_inner_steps, 1)
        num_ddim = max(self.num_ddim_steps - 1, 1)
        shapes = [(), (repeats, num_losses), (repeats,), (repeats, num_ddim), (repeats,)]
        bridge, *gibbs = (
            jax.random.normal(key, (*shape, *x_shape))
            for key, shape in zip(keys, shapes, strict=True)
        )
        return MGDMNoise(jax.random.uniform(key_tau), bridge, GibbsNoise(*gibbs))

    def step(
        self,
        noise: MGDMNoise,
        state: State,
        params: Params,
        problem: Problem,
        segment: Segment,
        row: MGDMRows,
    ) -> State:
        """From (x_{t_next}, x_0) to (x_t, x_0)."""
        x_t_next, chosen = state.x_t, row.choose(noise.tau)

        def repeat(state: State, noise: GibbsNoise) -> tuple[State, None]:
            block = make_block(chosen, state.x_0, state.x_t)
            x_tau = block_draw(
                noise.elbo, noise.x_tau, self.denoise_fn, params, problem, block,
                segment.settings, chosen.learning_rate,
            )  # fmt: skip
            x_0 = self._denoise(noise.ddim, x_tau, params, problem, chosen)
            x_t = bridge_draw(noise.renoise, chosen.renoise, x_t_next, x_tau)
            return State(x_t, x_0), None

        x_t = bridge_draw(noise.bridge, chosen.bridge, x_t_next, state.x_0)
        return jax.lax.scan(repeat, State(x_t, state.x_0), noise.gibbs)[0]

    def _denoise(
        self, eps: Array, x_tau: Array, params: Params, problem: Problem, row: MGDMRow
    ) -> Array:
        """A clean image from x_tau: one prediction, or DDIM down to time 0."""
        if self.num_ddim_steps == 1:
            return denoise(self.denoise_fn, params, problem, x_tau, row.tau)

        def ddim_step(x, xs):
            eps, time, coefficients = xs
            x_0 = denoise(self.denoise_fn, params, problem, x, time)
            return bridge_draw(eps, coefficients, x, x_0), None

        return jax.lax.scan(ddim_step, x_tau, (eps, row.ddim_times, row.ddim))[0]

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The last x_0."""
        return state.x_0


def make_block(row: MGDMRow, x_0: Float[Array, "H W C"], x_t: Float[Array, "H W C"]) -> Block:
    """The inner problem of a step: its prior is q(x_tau | x_0, x_t)."""
    mean = jnp.asarray(row.prior.c_l) * x_t + jnp.asarray(row.prior.c_s) * x_0
    return Block(x_0, x_t, mean, jnp.asarray(row.prior.std), row.t, row.tau)


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
