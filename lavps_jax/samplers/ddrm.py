"""DDRM: diffusion in the singular vectors of the operator (Kawar et al. 2022)."""

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
from lavps_jax.types import DenoiseFn, Params, PRNGKey, Problem

__all__ = ["DDRM", "DDRMRow", "ddrm_rows", "spectral_step"]


class DDRMRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      sigma_t, sigma_prev: noise-to-signal levels at t and at t_prev, float ().
      scale, scale_prev: square roots of alpha_bar there, float ().
    """

    t: Any
    sigma_t: Any
    sigma_prev: Any
    scale: Any
    scale_prev: Any


def ddrm_rows(t: np.ndarray, t_prev: np.ndarray, schedule: Schedule) -> DDRMRow:
    """Steps between these times, int (n,)."""
    sigma, scale = schedule.sigma, schedule.alpha_bar**0.5
    return DDRMRow(t, sigma[t], sigma[t_prev], scale[t], scale[t_prev])


def spectral_step(
    noise: Array,
    x_t: Float[Array, "H W C"],
    x_0: Float[Array, "H W C"],
    problem: Problem,
    row: DDRMRow,
    eta: float,
    eta_b: float,
) -> Float[Array, "H W C"]:
    """x_{t_prev} of `DDRM` for the prediction x_0 at t; `noise` is standard normal, like x_t."""
    operator, sigma_y, sigma = problem.operator, problem.sigma_y, row.sigma_prev
    keep = (1 - eta**2) ** 0.5

    def clear(s: Array) -> Array:
        return (s * sigma >= sigma_y) & (s > 0)

    def of_y(s: Array) -> Array:
        faint = keep * sigma * s / jnp.where(clear(s) | (sigma_y == 0), 1, sigma_y)
        return jnp.where(clear(s), eta_b, faint)

    def of_x_t(s: Array) -> Array:
        return jnp.where(s > 0, 0, keep * sigma / row.sigma_t)

    def of_noise(s: Array) -> Array:
        left = sigma**2 - (eta_b * sigma_y / jnp.where(clear(s), s, 1)) ** 2
        return jnp.where(clear(s), jnp.sqrt(jnp.maximum(left, 0)), eta * sigma)

    z = (
        operator.spectral(lambda s: 1 - of_y(s) - of_x_t(s), x_0)
        + operator.spectral_adjoint(lambda s: of_y(s) / s, operator.project(problem.y))
        + operator.spectral(of_x_t, x_t / row.scale)
        + operator.spectral(of_noise, noise)
    )
    return row.scale_prev * z


@dataclass(frozen=True)
class DDRM:
    """Denoising diffusion restoration model (Kawar et al., NeurIPS 2022, arXiv:2201.11793).

    For z_t = x_t / sqrt(alpha_bar[t]), A = U diag(s) V^T, in the directions V, with D = D(x_t, t)
    and y_bar = U^T y / s, whose noise has standard deviation sigma_y / s. From t to t_prev, with
    sigma = sigma_{t_prev}:
    s = 0: D + sqrt(1 - eta^2) sigma (z_t - D) / sigma_t + eta sigma noise,
    sigma < sigma_y / s: D + sqrt(1 - eta^2) sigma (y_bar - D) s / sigma_y + eta sigma noise,
    otherwise: (1 - eta_b) D + eta_b y_bar + sqrt(sigma^2 - (eta_b sigma_y / s)^2) noise.
    It begins at y_bar + sqrt(sigma_T^2 - (sigma_y / s)^2) noise where that is real, and at
    sigma_T noise elsewhere.

    For operators with known singular values. Poisson noise is taken as Gaussian of its typical
    standard deviation.

    Attributes:
      denoise_fn: the prior.
      num_steps: points of the time grid; num_steps - 1 denoiser calls, 20 in the paper.
      eta: stochasticity in [0, 1].
      eta_b: weight of y where its noise is below that of the time, in [0, 1].
      schedule: noise schedule.
    """

    denoise_fn: DenoiseFn
    num_steps: int = 21
    eta: float = 0.85
    eta_b: float = 1.0
    schedule: Schedule = Schedule()

    def __post_init__(self):
        check_schedule(self.denoise_fn, self.schedule)
        ddim_times(self.num_steps, self.schedule)  # Refuses a number that is out of range.
        check_eta(self.eta)
        if not 0 <= self.eta_b <= 1:
            raise UserError("eta_b", self.eta_b, "use a number in [0, 1]")

    def plan(self) -> Plan:
        """One segment."""
        rows = ddrm_rows(*ddim_times(self.num_steps, self.schedule), self.schedule)
        return (Segment(on_device(rows)),)

    def cost(self) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_steps - 1, 0, 0)

    def check(self, problem: Problem) -> None:
        """Takes operators with known singular values."""
        check_spectral(problem, "DDRM")
        check_gaussian(problem, "DDRM")

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """x_T near y where y is less noisy; x_0 is filled by the first step."""
        operator, sigma_y = problem.operator, problem.sigma_y
        last = self.schedule.num_times - 1
        sigma, scale = self.schedule.sigma[last].item(), self.schedule.alpha_bar[last].item() ** 0.5

        def weight(s: Array) -> Array:
            return jnp.where(s * sigma > sigma_y, 1 / s, 0)

        def std(s: Array) -> Array:
            clear = s * sigma > sigma_y
            return jnp.sqrt(sigma**2 - jnp.where(clear, sigma_y / jnp.where(clear, s, 1), 0) ** 2)

        y_bar = operator.spectral_adjoint(weight, operator.project(problem.y))
        return State(scale * (y_bar + operator.spectral(std, eps)), jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Array:
        """The draw of one step."""
        return jax.random.normal(rng_key, x_shape)

    def step(self, noise, state, params, problem, segment, row: DDRMRow) -> State:
        """One step; the state's x_0 is the prediction at t."""
        x_0 = denoise(self.denoise_fn, params, problem, state.x_t, row.t)
        x_t = spectral_step(noise, state.x_t, x_0, problem, row, self.eta, self.eta_b)
        return State(x_t, x_0)

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0, which is the step to sigma = 0."""
        t = ddim_times(self.num_steps, self.schedule)[1][-1]
        return denoise(self.denoise_fn, params, problem, state.x_t, jnp.asarray(t))
