"""DDNM: what is measured is put in place, the rest is left to the prior (Wang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import denoise
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.samplers.base import (
    Cost,
    Plan,
    Segment,
    State,
    check_gaussian,
    check_schedule,
    check_spectral,
    on_device,
)
from lavps_jax.samplers.ddim import check_eta, ddim_times
from lavps_jax.samplers.ddrm import DDRMRow, ddrm_rows, spectral_step
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DDNM", "DDNMNoise", "DDNMRow"]


class DDNMRow(NamedTuple):
    """One step, at the begin of a repeated stretch after a leap back to its noisier end.

    Attributes:
      scale, std: the leap x <- scale x + std noise, float (); 1 and 0 where there is none.
      ddrm: times and noise levels.
    """

    scale: Any
    std: Any
    ddrm: DDRMRow


class DDNMNoise(NamedTuple):
    """Standard normal draws of one step: of the leap back and of the way on, float (H, W, C)."""

    leap: Array
    fresh: Array


@dataclass(frozen=True)
class DDNM:
    """Denoising diffusion null-space model, for noisy measurements (DDNM+ of the paper).

    Wang et al., ICLR 2023, arXiv:2212.00490, section 3.3, with the DDIM step of their program
    https://github.com/wyhuai/DDNM, which made the results of the paper; its equations are written
    for the posterior of DDPM instead. With D = D(x_t, t), A = U diag(s) V^T,
    eps_hat = (x_t - sqrt(alpha_bar[t]) D) / sqrt(1 - alpha_bar[t]), and at t_prev
    a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar):
    x_0_hat = D + V diag(lambda) V^T A^+ (y - A D),
    x_{t_prev} = a x_0_hat + V (diag(d_1) V^T noise + diag(d_2) V^T eps_hat),
    s = 0: d_1 = eta sigma, d_2 = sqrt(1 - eta^2) sigma,
    sigma < a sigma_y / s: lambda = sqrt(1 - eta^2) s sigma / (a sigma_y), d_1 = eta sigma, d_2 = 0,
    otherwise: lambda = 1, d_1 = sqrt(sigma^2 - (a sigma_y / s)^2), d_2 = 0.
    So the noise of y that enters in a direction that is seen and the fresh noise have variance
    sigma^2 together. It is the step of `DDRM` with eta_b = 1. At sigma_y = 0 what is measured is
    put in place: lambda = 1.

    For operators with known singular values. Poisson noise is taken as Gaussian of its typical
    standard deviation.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: share of the fresh noise, in [0, 1].
      travel_length, num_travels: time travel. Every stretch of travel_length steps is run
        num_travels times, each time from its noisier end, to which x is noised again (the authors'
        program noises D instead); 1 is once.
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 100
    eta: float = 0.85
    travel_length: int = 1
    num_travels: int = 1
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_eta(self.eta)
        for name in ("travel_length", "num_travels"):
            if getattr(self, name) < 1:
                raise UserError(name, getattr(self, name), "use at least 1")

    def plan(self) -> Plan:
        """One segment."""
        high, low = ddim_times(self.num_steps, self.schedule)
        order, begins = [], []
        for begin in range(0, len(high), self.travel_length):
            stretch = list(range(begin, min(begin + self.travel_length, len(high))))
            for repeat in range(self.num_travels):
                order += stretch
                begins += [repeat > 0] + [False] * (len(stretch) - 1)
        t, t_prev = high[order], low[order]
        alpha_bar = self.schedule.alpha_bar
        # Where a step does not begin at the time that the one before it reached, x leaps there.
        reached = np.concatenate([t[:1], t_prev[:-1]])
        ratio = np.where(begins, alpha_bar[t] / alpha_bar[reached], 1.0)
        rows = DDNMRow(ratio**0.5, (1 - ratio) ** 0.5, ddrm_rows(t, t_prev, self.schedule))
        return (Segment(on_device(rows)),)

    def cost(self) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_travels * (self.num_steps - 2) + 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes operators with known singular values."""
        check_spectral(problem, "DDNM")
        check_gaussian(problem, "DDNM")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> DDNMNoise:
        """The draws of one step; without time travel there is no leap."""
        key, key_leap = jax.random.split(rng_key)
        shape = x_shape if self.num_travels > 1 else (1,) * len(x_shape)
        return DDNMNoise(jax.random.normal(key_leap, shape), jax.random.normal(key, x_shape))

    def step(self, noise: DDNMNoise, state, params, problem, segment, row: DDNMRow) -> State:
        """One step; the state's x_0 is the prediction at t."""
        x_t = row.scale * state.x_t + row.std * noise.leap
        x_0 = denoise(self.denoise_fn, params, problem, x_t, row.ddrm.t)
        x_t = spectral_step(noise.fresh, x_t, x_0, problem, row.ddrm, self.eta, eta_b=1.0)
        return State(x_t, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0: at sigma = 0 lambda is 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        return denoise(self.denoise_fn, params, problem, state.x_t, jnp.asarray(t))
