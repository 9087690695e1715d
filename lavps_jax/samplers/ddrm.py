"""DDRM: diffusion in the singular vectors of the operator (Kawar et al. 2022)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_fraction
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import GridSampler, Plan, Segment, State, ddim_times, on_device


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
    eta: Any,
    eta_b: Any,
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


class DDRM(GridSampler):
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
      num_steps: points of the time grid; num_steps - 1 denoiser calls, 20 in the paper.
      eta: stochasticity in [0, 1].
      eta_b: weight of y where its noise is below that of the time, in [0, 1].
    """

    takes_operator: ClassVar = "spectral"

    num_steps: int = static(default=21)
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_fraction("eta", self.eta)
        check_fraction("eta_b", self.eta_b)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        rows = ddrm_rows(*ddim_times(self.num_steps, schedule), schedule)
        return (Segment(on_device(rows)),)

    def init(self, eps: Float[Array, "H W C"], prior: Denoiser, problem: Problem) -> State:
        """x_T near y where y is less noisy; x_0 is filled by the first step."""
        operator, sigma_y = problem.operator, problem.sigma_y
        last = prior.schedule.num_times - 1
        sigma = prior.schedule.sigma[last].item()
        scale = prior.schedule.alpha_bar[last].item() ** 0.5

        def weight(s: Array) -> Array:
            return jnp.where(s * sigma > sigma_y, 1 / s, 0)

        def std(s: Array) -> Array:
            clear = s * sigma > sigma_y
            return jnp.sqrt(sigma**2 - jnp.where(clear, sigma_y / jnp.where(clear, s, 1), 0) ** 2)

        y_bar = operator.spectral_adjoint(weight, operator.project(problem.y))
        return State(scale * (y_bar + operator.spectral(std, eps)), jnp.zeros_like(eps))

    def step(self, noise, state, prior, problem, segment, row: DDRMRow) -> State:
        """One step; the state's x_0 is the prediction at t."""
        x_0 = prior(state.x_t, row.t, problem.label)
        x_t = spectral_step(noise, state.x_t, x_0, problem, row, self.eta, self.eta_b)
        return State(x_t, x_0)
