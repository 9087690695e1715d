"""DING: exact Gaussian steps, with a noise estimate in the place of a derivative (2025)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lavps_jax.diffusion.bridges import bridge_coefficients, bridge_draw
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import check_fraction, check_positive
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, GridSampler, Plan, Segment, State, ddim_times, on_device
from lavps_jax.samplers.ddim import DDIMRow
from lavps_jax.types import PRNGKey


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


class DING(GridSampler):
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
      num_steps: points of the time grid; num_steps - 2 steps and one last prediction.
      eta: stochasticity in (0, 1].
    """

    takes_operator: ClassVar = "spectral"

    num_steps: int = static(default=50)
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        check_fraction("eta", self.eta)
        check_positive("eta", self.eta)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        t, t_prev = ddim_times(self.num_steps, schedule)
        alpha_bar = schedule.alpha_bar
        bridge = bridge_coefficients(alpha_bar, 0, t_prev, t, self.eta)
        weight = alpha_bar[t_prev] / bridge.std**2
        rows = DINGRow(DDIMRow(t, t_prev, bridge), alpha_bar[t_prev] ** 0.5, weight)
        return (Segment(on_device(rows)),)

    def cost(self, schedule: Schedule) -> Cost:
        """Two denoiser calls a step, and one last call."""
        return Cost(2 * (self.num_steps - 2) + 1, 0, 0)

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> DINGNoise:
        """The draws of one step."""
        return DINGNoise(*jax.random.normal(rng_key, (2, *x_shape)))

    def step(self, noise: DINGNoise, state, prior, problem, segment, row: DINGRow) -> State:
        """One step; the state's x_0 is the prediction at the auxiliary state."""
        operator, (t, t_prev, bridge) = problem.operator, row.ddim
        x_0 = prior(state.x_t, t, problem.label)
        mean = bridge_draw(jnp.zeros_like(x_0), bridge, state.x_t, x_0)
        z = mean + bridge.std * noise.auxiliary
        x_0 = prior(z, t_prev, problem.label)
        n_hat = z - row.signal * x_0
        w = row.weight * problem.sigma_y**2
        residual = operator.project(row.signal * problem.y + operator.forward(n_hat - mean))
        fresh = operator.spectral(lambda s: jnp.sqrt(w / (s**2 + w)), noise.state)
        return State(mean + operator.ridge(residual, w) + bridge.std * fresh, x_0)
