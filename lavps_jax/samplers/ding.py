"""DING: exact Gaussian steps, with a noise estimate in the place of a derivative (2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import bridge_draw, denoise
from lavps_jax.diffusion.schedules import Schedule, bridge_coefficients
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
from lavps_jax.samplers.ddim import DDIMRow, ddim_times
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DING", "DINGNoise", "DINGRow"]


class DINGRow(NamedTuple):
    """One step.

    Attributes:
      ddim: times and bridge.
      signal, weight: square root of alpha_bar[t_prev], and alpha_bar[t_prev] / std^2, float ().
    """

    ddim: DDIMRow
    signal: Any
    weight: Any


class DINGNoise(NamedTuple):
    """Standard normal draws of one step: of the auxiliary state and of x_{t_prev}, (H, W, C)."""

    auxiliary: Array
    state: Array


@dataclass(frozen=True)
class DING:
    """Decoupled guidance without derivatives of the denoiser (Moufad et al., arXiv:2512.18365).

    With m = c_l x_t + c_s D(x_t, t) and std of the bridge to t_prev = s: z = m + std noise,
    n_hat = z - sqrt(alpha_bar[s]) D(z, s), which is the noise in z. Then
    sqrt(alpha_bar[s]) y + A n_hat is taken as a measurement A x_s with noise of standard deviation
    sqrt(alpha_bar[s]) sigma_y, and x_s is drawn from its posterior under the prior N(m, std^2 I):
    with w = alpha_bar[s] sigma_y^2 / std^2, its mean is
    m + (A^T A + w I)^-1 A^T (sqrt(alpha_bar[s]) y + A n_hat - A m) and its covariance is
    std^2 w (A^T A + w I)^-1.

    The paper describes inpainting; that the same holds for every A with known singular values is
    an extension, and the stochasticity eta of the bridges, which the paper schedules, is constant
    here. Poisson noise is taken as Gaussian of its typical standard deviation.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in (0, 1].
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 50
    eta: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        if not 0 < self.eta <= 1:
            raise UserError("eta", self.eta, "use a positive number, at most 1")

    def plan(self) -> Plan:
        """One segment."""
        t, t_prev = ddim_times(self.num_steps, self.schedule)
        alpha_bar = self.schedule.alpha_bar
        bridge = bridge_coefficients(alpha_bar, 0, t_prev, t, self.eta)
        weight = alpha_bar[t_prev] / bridge.std**2
        rows = DINGRow(DDIMRow(t, t_prev, bridge), alpha_bar[t_prev] ** 0.5, weight)
        return (Segment(on_device(rows)),)

    def cost(self) -> Cost:
        """Two denoiser calls a step, and one last call."""
        return Cost(2 * (self.num_steps - 2) + 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes operators with known singular values."""
        check_spectral(problem, "DING")
        check_gaussian(problem, "DING")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> DINGNoise:
        """The draws of one step."""
        return DINGNoise(*jax.random.normal(rng_key, (2, *x_shape)))

    def step(self, noise: DINGNoise, state, params, problem, segment, row: DINGRow) -> State:
        """One step; the state's x_0 is the prediction at the auxiliary state."""
        operator, (t, t_prev, bridge) = problem.operator, row.ddim
        x_0 = denoise(self.denoise_fn, params, problem, state.x_t, t)
        mean = bridge_draw(jnp.zeros_like(x_0), bridge, state.x_t, x_0)
        z = mean + bridge.std * noise.auxiliary
        x_0 = denoise(self.denoise_fn, params, problem, z, t_prev)
        n_hat = z - row.signal * x_0
        w = row.weight * problem.sigma_y**2
        residual = operator.project(row.signal * problem.y + operator.forward(n_hat - mean))
        fresh = operator.spectral(lambda s: jnp.sqrt(w / (s**2 + w)), noise.state)
        return State(mean + operator.ridge(residual, w) + bridge.std * fresh, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        return denoise(self.denoise_fn, params, problem, state.x_t, jnp.asarray(t))
