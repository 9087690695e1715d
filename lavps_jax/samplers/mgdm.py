"""MGDM: alternates a fitted block posterior with re-noising (Janati et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.bridges import bridge_draw
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import UserError, check_at_least, check_choices, check_fraction
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State, on_device
from lavps_jax.samplers.inner import Inner, block_draw
from lavps_jax.samplers.mgdm_rows import (
    MGDMRow,
    TauChoices,
    TauRule,
    block_times,
    make_block,
    mgdm_rows,
)
from lavps_jax.samplers.starts import Start, ZeroShotRule, zero_shot
from lavps_jax.types import PRNGKey

LARGE = 2_000_000
"""Numbers of an image from which on its memory matters more than the time to draw noise."""


class GibbsNoise(NamedTuple):
    """Standard normal draws of one Gibbs repetition.

    Attributes:
      loss_eps: one per loss; the first also compares candidate starts, float (max(K, 1), H, W, C).
      x_tau: float (H, W, C).
      ddim: float (M', H, W, C).
      renoise: float (H, W, C).
    """

    loss_eps: Array
    x_tau: Array
    ddim: Array
    renoise: Array


class MGDMNoise(NamedTuple):
    """The draws of one step.

    Attributes:
      tau_place: which of the block times, uniform in [0, 1), float ().
      bridge: of the first bridge, standard normal, float (H, W, C).
      gibbs: of the R repetitions, on axis 0.
    """

    tau_place: Float[Array, ""]
    bridge: Array
    gibbs: GibbsNoise


class MGDM(Sampler):
    """Mixture-guided diffusion (Janati et al., ICML 2025, arXiv:2502.03332). Method section 4.

    Per step, for grid times t_next > t > t_prev >= tau: x_t from the bridge; R times: a diagonal
    Gaussian fitted to the block posterior of x_tau, a draw of it, x_0 by denoising it, and x_t by
    re-noising it.

    The defaults were chosen here, for any number of steps at sigma_y of about .05; from about 20 on
    samples then fit y nearly as the true image does, and also at larger sigma_y. At sigma_y = .001
    and 100 steps, residuals were 29 times too large on images of independent Gaussian pixels of
    which half were seen. The published settings have `inner` and `inner_low_noise` of
    `Inner(K, 0.03, "image")`, tau_rule "previous", and high_idx 10, 20 or 30.

    Attributes:
      inner: how blocks are solved whose t_prev has a grid index outside [low_idx, high_idx).
      inner_low_noise: the same inside of it, at the low-noise end.
      zero_shot: where fits begin: at the block prior, as published, or at a Gauss-Newton step from
        it towards y. The step alone, with K = 0, takes no derivative of the denoiser.
      low_idx: first grid index of the low-noise end, at least 1.
      high_idx: one past its last grid index; None is half of the grid, num_steps // 2.
      num_steps: points of the time grid, n; a run has n - 3 steps.
      grid_power: how dense they lie at little noise, see `time_grid`. Few steps on an even grid, 1,
        end at blocks whose noise is above a small sigma_y: what varies less from image to image
        than that noise is then hardly restored.
      num_gibbs: repetitions, R.
      num_ddim_steps: points of the time grid from 0 to tau on which x_tau is denoised, M; 1 is a
        single prediction.
      eta: stochasticity of the first bridge and of DDIM, in [0, 1].
      tau_rule: block time from t_prev: itself, its half, or three quarters of it; "uniform" draws
        an integer from [min_tau, t_prev) for each step and particle (t_prev itself where there is
        none); "mix" does so in the first num_mixed_steps steps and then takes t_prev.
      min_tau: lowest block time that is drawn, at least 1.
      num_mixed_steps: steps of "mix" that draw the block time.
    """

    takes_noise: ClassVar = "any"

    _: KW_ONLY
    inner: Inner = Inner()
    inner_low_noise: Inner = Inner(10)
    zero_shot: ZeroShotRule = static(default="prior")
    low_idx: int = static(default=1)
    high_idx: int | None = static(default=None)
    num_steps: int = static(default=100)
    grid_power: float = static(default=1.0)
    num_gibbs: int = static(default=1)
    num_ddim_steps: int = static(default=1)
    eta: float = 1.0
    tau_rule: TauRule = static(default="midpoint")
    min_tau: int = static(default=10)
    num_mixed_steps: int = static(default=70)

    def __post_init__(self):
        check_choices(self)
        for name in ("inner", "inner_low_noise"):
            getattr(self, name).check(name)
        check_at_least("num_steps", self.num_steps, 4)
        for name in ("num_gibbs", "num_ddim_steps", "min_tau"):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("num_mixed_steps", self.num_mixed_steps, 0)
        check_fraction("eta", self.eta)
        end = self.num_steps // 2 if self.high_idx is None else self.high_idx
        if not 1 <= self.low_idx <= end:
            raise UserError(
                "low_idx, high_idx", (self.low_idx, end), "use 1 <= low_idx <= high_idx"
            )

    def low_noise(self, schedule: Schedule) -> range:
        """Grid indices of t_prev at the low-noise end."""
        end = self.num_steps // 2 if self.high_idx is None else self.high_idx
        return range(self.low_idx, end)

    def start(self, low_noise: bool) -> Start:
        """Where the inner fit begins, at the low-noise end or outside of it."""
        return zero_shot(self.zero_shot)

    def _blocks(self, schedule: Schedule) -> list[tuple[bool, range]]:
        """Grid indices of t_prev from the noisiest on, with whether they are the low-noise end."""
        top, low_noise = self.num_steps - 3, self.low_noise(schedule)
        low, high = min(low_noise.start, top + 1), min(low_noise.stop, top + 1)
        parts = [
            (False, range(top, high - 1, -1)),
            (True, range(high - 1, low - 1, -1)),
            (False, range(low - 1, 0, -1)),
        ]
        return [(is_low, indices) for is_low, indices in parts if len(indices)]

    def _inner(self, low_noise: bool) -> Inner:
        return self.inner_low_noise if low_noise else self.inner

    def plan(self, schedule: Schedule) -> Plan:
        """One segment for each stretch of equal inner settings, noisiest first; its settings are
        whether it is the low-noise end."""
        if self.num_steps > schedule.num_times:
            raise UserError("num_steps", self.num_steps, f"use 4 to {schedule.num_times}")
        times = time_grid(self.num_steps, schedule, self.grid_power)
        top, segments = self.num_steps - 3, []
        for low_noise, indices in self._blocks(schedule):
            choices = [
                block_times(
                    self.tau_rule,
                    int(times[i]),
                    self.min_tau,
                    is_mixed=top - i < self.num_mixed_steps,
                )
                for i in indices
            ]
            size = max(map(len, choices))
            tau = np.stack([np.pad(one, (0, size - len(one)), mode="edge") for one in choices])
            index = np.asarray(indices)
            rows = mgdm_rows(
                times[index + 1],
                times[index + 2],
                tau,
                self._inner(low_noise),
                self.eta,
                self.num_ddim_steps,
                schedule,
            )
            count = np.asarray([len(one) for one in choices])
            segments.append(Segment(on_device(TauChoices(count, rows)), low_noise))
        return tuple(segments)

    def cost(self, schedule: Schedule) -> Cost:
        """Evaluations per particle of one run."""
        calls, vjps, amortized = 1, 0, 0
        denoising = max(self.num_ddim_steps - 1, 1)
        for low_noise, indices in self._blocks(schedule):
            repeats = len(indices) * self.num_gibbs
            start_calls, network = self.start(low_noise).cost()
            fit = self._inner(low_noise).num_inner_steps
            calls += repeats * (start_calls + fit + denoising)
            vjps += repeats * fit
            amortized += repeats * network
        return Cost(calls, vjps, amortized)

    def init(self, eps, prior, problem) -> State:
        """x_T ~ N(0, I) and its denoised image; the memory is what the start has prepared."""
        x_0 = prior(eps, jnp.asarray(prior.schedule.num_times - 1), problem.label)
        return State(eps, x_0, self.start(low_noise=True).prepare(problem))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> MGDMNoise:
        """The draws of one step, each with its own key."""
        *keys, key_tau = jax.random.split(rng_key, 6)
        repeats, num_ddim = self.num_gibbs, max(self.num_ddim_steps - 1, 1)
        num_losses = max(self._inner(segment.settings).num_inner_steps, 1)
        shapes = [(), (repeats, num_losses), (repeats,), (repeats, num_ddim), (repeats,)]
        bridge, *gibbs = (
            _normal(key, shape, x_shape) for key, shape in zip(keys, shapes, strict=True)
        )
        return MGDMNoise(jax.random.uniform(key_tau), bridge, GibbsNoise(*gibbs))

    def step(self, noise: MGDMNoise, state, prior, problem, segment, row: TauChoices) -> State:
        """From (x_{t_next}, x_0) to (x_t, x_0)."""
        x_t_next, chosen, low_noise = state.x_t, row.choose(noise.tau_place), segment.settings

        def repeat(images: tuple[Array, Array], noise: GibbsNoise):
            x_t, x_0 = images
            x_tau = block_draw(
                noise.loss_eps,
                noise.x_tau,
                prior,
                problem,
                make_block(chosen, x_0, x_t),
                self.start(low_noise),
                state.memory if low_noise else (),
                self._inner(low_noise).num_inner_steps,
                chosen.learning_rate,
            )
            x_0 = self._denoise(noise.ddim, x_tau, prior, problem, chosen)
            return (bridge_draw(noise.renoise, chosen.renoise, x_t_next, x_tau), x_0), None

        x_t = bridge_draw(noise.bridge, chosen.bridge, x_t_next, state.x_0)
        (x_t, x_0), _ = jax.lax.scan(repeat, (x_t, state.x_0), noise.gibbs)
        return State(x_t, x_0, state.memory)

    def _denoise(
        self, eps: Array, x_tau: Array, prior: Denoiser, problem: Problem, row: MGDMRow
    ) -> Array:
        """A clean image from x_tau: one prediction, or DDIM down to time 0."""
        if self.num_ddim_steps == 1:
            return prior(x_tau, row.tau, problem.label)

        def ddim_step(x, xs):
            eps, time, bridge = xs
            return bridge_draw(eps, bridge, x, prior(x, time, problem.label)), None

        return jax.lax.scan(ddim_step, x_tau, (eps, row.ddim_times, row.ddim))[0]


def _normal(rng_key: PRNGKey, shape: tuple[int, ...], x_shape: tuple[int, ...]) -> Array:
    """Standard normal images (*shape, H, W, C). Large ones are drawn one after the other: random
    bits need four times the memory of what is drawn at once."""
    if math.prod(x_shape) < LARGE:
        return jax.random.normal(rng_key, (*shape, *x_shape))
    keys = jax.random.split(rng_key, math.prod(shape))
    images = jax.lax.map(lambda key: jax.random.normal(key, x_shape), keys)
    return images.reshape(*shape, *x_shape)
