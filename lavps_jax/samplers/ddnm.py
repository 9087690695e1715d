"""DDNM: what is measured is put in place, the rest is left to the prior (Wang et al. 2023)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_at_least, check_fraction
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, GridSampler, Plan, Segment, State, ddim_times, on_device
from lavps_jax.samplers.ddrm import DDRMRow, ddrm_rows, spectral_step
from lavps_jax.types import PRNGKey


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


class DDNM(GridSampler):
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
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: share of the fresh noise, in [0, 1].
      travel_length, num_travels: time travel. Every stretch of travel_length steps is run
        num_travels times, each time from its noisier end, to which x is noised again (the authors'
        program noises D instead); 1 is once.
    """

    takes_operator: ClassVar = "spectral"

    eta: float = 0.85
    travel_length: int = static(default=1)
    num_travels: int = static(default=1)

    def __post_init__(self):
        super().__post_init__()
        check_fraction("eta", self.eta)
        for name in ("travel_length", "num_travels"):
            check_at_least(name, getattr(self, name), 1)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        high, low = ddim_times(self.num_steps, schedule)
        order, begins = [], []
        for begin in range(0, len(high), self.travel_length):
            stretch = list(range(begin, min(begin + self.travel_length, len(high))))
            for repeat in range(self.num_travels):
                order += stretch
                begins += [repeat > 0] + [False] * (len(stretch) - 1)
        t, t_prev = high[order], low[order]
        alpha_bar = schedule.alpha_bar
        # Where a step does not begin at the time that the one before it reached, x leaps there.
        reached = np.concatenate([t[:1], t_prev[:-1]])
        ratio = np.where(begins, alpha_bar[t] / alpha_bar[reached], 1.0)
        rows = DDNMRow(ratio**0.5, (1 - ratio) ** 0.5, ddrm_rows(t, t_prev, schedule))
        return (Segment(on_device(rows)),)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_travels * (self.num_steps - 2) + 1, 0, 0)

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> DDNMNoise:
        """The draws of one step; without time travel there is no leap."""
        key, key_leap = jax.random.split(rng_key)
        shape = x_shape if self.num_travels > 1 else (1,) * len(x_shape)
        return DDNMNoise(jax.random.normal(key_leap, shape), jax.random.normal(key, x_shape))

    def step(self, noise: DDNMNoise, state, prior, problem, segment, row: DDNMRow) -> State:
        """One step; the state's x_0 is the prediction at t."""
        x_t = row.scale * state.x_t + row.std * noise.leap
        x_0 = prior(x_t, row.ddrm.t, problem.label)
        x_t = spectral_step(noise.fresh, x_t, x_0, problem, row.ddrm, self.eta, eta_b=1.0)
        return State(x_t, x_0)
