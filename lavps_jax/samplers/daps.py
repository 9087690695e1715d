"""DAPS: the noise levels of a run are decoupled from each other (Zhang et al. 2025)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.diffusion.bridges import BridgeCoefficients, bridge_draw, bridges_between
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, check_at_least, check_positive
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.noise import Custom, Gaussian, PoissonGaussian
from lavps_jax.problems.poisson import Poisson
from lavps_jax.problems.problem import Problem, log_likelihood, prediction_log_likelihood
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, Plan, Sampler, Segment, State, on_device
from lavps_jax.types import PRNGKey

_NUM_POWER_STEPS = 15
"""Of the power iteration for L, which from below is then right to a few percent."""


class DAPSRow(NamedTuple):
    """One noise level.

    Attributes:
      ode_times: times from t down to above 0, int (E,).
      ode: their deterministic bridges, coefficients (E,).
      variance: r_t^2 = sigma_t^2, float ().
      step_size: of Langevin dynamics, in units of 1 / L, float ().
      signal, noise: x_{t_prev} = signal x_0 + noise eps, float ().
    """

    ode_times: Any
    ode: BridgeCoefficients
    variance: Any
    step_size: Any
    signal: Any
    noise: Any


class DAPSNoise(NamedTuple):
    """Standard normal draws of one step: Langevin float (N, H, W, C), renoise float (H, W, C)."""

    langevin: Array
    renoise: Array


class DAPS(Sampler):
    """Decoupled annealing posterior sampling (Zhang et al., CVPR 2025, arXiv:2407.01521).

    Algorithm 1, at each noise level: x_0_hat solves the probability-flow ODE from x_t; N steps of
    Langevin dynamics begin there,
    x_0 <- x_0 + h grad(log l(y | x_0) - ||x_0 - x_0_hat||^2 / (2 r_t^2)) + sqrt(2 h) noise,
    r_t = sigma_t; and x_{t_prev} = sqrt(alpha_bar[t_prev]) x_0 + sqrt(1 - alpha_bar[t_prev]) eps.
    Langevin dynamics is of the likelihood alone: no derivative goes through the denoiser.

    h is min(step_size / L, 1 / (L + 10 / r_t^2)), and `step_size` falls to `step_size_ratio` of it
    in even steps. L is the largest curvature of -log l: ||A||^2 / sigma_y^2 for a linear A and
    Gaussian noise, so that y, A and sigma_y may be in any unit. Of a map that is not linear ||A||
    is that of its derivative at a grey or at a random image, and for it and for a log-likelihood of
    one's own the curvature at x_0_hat of every level counts where it is larger. That of counted
    photons grows a thousandfold from bright to dark: they are taken as Gaussian noise of their
    typical standard deviation. Langevin dynamics
    diverges from h = 2 / (L + 1 / r_t^2) on, and at each level the variance of x_0 is
    1 / (1 - h / (2 r_t^2)) times too large where nothing is measured; at the end it was 1.7 to 2
    times (independent Gaussian pixels, sigma_y = 1, where the dynamics forgets where it began). At
    their sigma_y the authors' steps are far below
    both bounds, at a large one they would be above.

    Noise levels, of the run from sigma_max to sigma_min and of an ODE from t to `ode_sigma_min`,
    are even in sigma^(1/7) as in the paper (Karras et al. 2022), each moved to the nearest time of
    the schedule; those of a run that meet there are run all the same, steps of an ODE do nothing
    then. An ODE step is Euler's in x_t / sqrt(alpha_bar), which is DDIM with eta = 0, and the last
    one predicts time 0. Langevin dynamics uses the noise of the problem, where the authors' code
    takes .01 for any; in the unit 1 / L their steps of 1e-4 are 1 where ||A|| = 1 (and .5 for
    motion blur, .2 for high dynamic range).

    Attributes:
      num_steps: noise levels.
      num_ode_steps: denoiser calls at each, E.
      num_langevin_steps: N.
      step_size: h L at the first level, positive; above 1 it is 1.
      step_size_ratio: of the last level, positive.
      sigma_max, sigma_min, ode_sigma_min: see above.
    """

    takes_noise: ClassVar = "any"

    num_steps: int = static(default=200)
    num_ode_steps: int = static(default=5)
    num_langevin_steps: int = static(default=100)
    step_size: float = 1.0
    step_size_ratio: float = 0.01
    sigma_max: float = static(default=100.0)
    sigma_min: float = static(default=0.1)
    ode_sigma_min: float = static(default=0.01)

    def __post_init__(self):
        for name, least in (("num_steps", 2), ("num_ode_steps", 1), ("num_langevin_steps", 1)):
            check_at_least(name, getattr(self, name), least)
        for name in ("step_size", "step_size_ratio", "ode_sigma_min"):
            check_positive(name, getattr(self, name))
        if not self.ode_sigma_min <= self.sigma_min < self.sigma_max:
            value = (self.ode_sigma_min, self.sigma_min, self.sigma_max)
            remedy = "use ode_sigma_min <= sigma_min < sigma_max"
            raise UserError("ode_sigma_min, sigma_min, sigma_max", value, remedy)

    def plan(self, schedule: Schedule) -> Plan:
        """One segment."""
        alpha_bar, sigma = schedule.alpha_bar, schedule.sigma
        times = _even_times(self.sigma_max, self.sigma_min, self.num_steps, schedule)
        # After the last level x_t is not used any more.
        renoise = np.append(times[1:], 0)
        falling = 1 - (1 - self.step_size_ratio) * np.linspace(0, 1, self.num_steps)
        grid = np.stack([self._ode_grid(int(t), schedule) for t in times])
        rows = DAPSRow(
            ode_times=grid[:, :-1],
            ode=bridges_between(alpha_bar, grid[:, 1:], grid[:, :-1], 0.0),
            variance=sigma[times] ** 2,
            step_size=self.step_size * falling,
            signal=alpha_bar[renoise] ** 0.5,
            noise=(1 - alpha_bar[renoise]) ** 0.5,
        )
        return (Segment(on_device(rows)),)

    def _ode_grid(self, t: int, schedule: Schedule) -> np.ndarray:
        """Times of E steps from t to 0; one between equal times leaves x as it is."""
        lowest = min(self.ode_sigma_min, float(schedule.sigma[t]))
        high = _even_times(float(schedule.sigma[t]), lowest, self.num_ode_steps, schedule)
        return np.append(high, 0)

    def cost(self, schedule: Schedule) -> Cost:
        """The ODE steps; Langevin steps take derivatives through the operator only."""
        return Cost(self.num_steps * self.num_ode_steps, 0, 0)

    def init(self, eps: Float[Array, "H W C"], prior: Denoiser, problem: Problem) -> State:
        """x_T ~ N(0, I); x_0 is filled by the first step. The memory is ||A||^2 / sigma_y^2."""
        images = [jnp.zeros_like(eps)]
        if not isinstance(problem.operator, LinearOperator):
            # The derivative may be zero at grey, and where values are clipped.
            images += [jax.random.uniform(jax.random.key(1), eps.shape, minval=-1.0)]
        gaussian = problem.replace(noise=Gaussian(problem.sigma_y))
        found = [largest_curvature(gaussian, image) for image in images]
        return State(eps, images[0], jnp.max(jnp.stack(found)))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> DAPSNoise:
        """The draws of one noise level."""
        key, key_renoise = jax.random.split(rng_key)
        langevin = jax.random.normal(key, (self.num_langevin_steps, *x_shape))
        return DAPSNoise(langevin, jax.random.normal(key_renoise, x_shape))

    def step(self, noise: DAPSNoise, state, prior, problem, segment, row: DAPSRow) -> State:
        """One noise level; the state's x_0 is where Langevin dynamics ended."""

        def ode_step(x, xs):
            t, bridge = xs
            return bridge_draw(x, bridge, x, prior(x, t, problem.label)), None

        x_0_hat, _ = jax.lax.scan(ode_step, state.x_t, (row.ode_times, row.ode))
        if isinstance(problem.noise, Poisson | PoissonGaussian):
            problem = problem.replace(noise=Gaussian(problem.sigma_y))
        gradient = jax.grad(lambda x_0: log_likelihood(problem, x_0))
        curvature = state.memory
        if isinstance(problem.noise, Custom) or not isinstance(problem.operator, LinearOperator):
            curvature = jnp.maximum(curvature, largest_curvature(problem, x_0_hat))
        step_size = 1 / jnp.maximum(curvature / row.step_size, curvature + 10 / row.variance)

        def langevin_step(x_0, eps):
            drift = gradient(x_0) - (x_0 - x_0_hat) / row.variance
            return x_0 + step_size * drift + jnp.sqrt(2 * step_size) * eps, None

        x_0, _ = jax.lax.scan(langevin_step, x_0_hat, noise.langevin)
        return State(row.signal * x_0 + row.noise * noise.renoise, x_0, state.memory)


def largest_curvature(problem: Problem, x_0: Float[Array, "H W C"]) -> Float[Array, ""]:
    """The largest absolute eigenvalue of the Hessian of log l(y | x_0), A linearised, float ().

    By power iteration, from below; it begins with a grey image, which blurs let pass, and noise.
    The second derivative of A itself is left out: that of a Fourier magnitude has no bound.
    """
    prediction, along = jax.linearize(problem.operator.forward, x_0)
    gradient = jax.grad(lambda x: prediction_log_likelihood(problem, prediction + along(x)))
    here = jnp.zeros_like(x_0)

    def power_step(_, carry):
        v, _ = carry
        v = jax.grad(lambda x: jnp.vdot(gradient(x), v))(here)
        length = jnp.linalg.norm(jnp.ravel(v))
        return v / jnp.where(length > 0, length, 1), length

    v = 1 + jax.random.normal(jax.random.key(0), x_0.shape, x_0.dtype)
    start = v / jnp.linalg.norm(jnp.ravel(v)), jnp.zeros((), x_0.dtype)
    return jax.lax.fori_loop(0, _NUM_POWER_STEPS, power_step, start)[1]


def _even_times(highest: float, lowest: float, count: int, schedule: Schedule) -> np.ndarray:
    """Times of noise levels that are even in sigma^(1/7)."""
    levels = np.linspace(highest ** (1 / 7), lowest ** (1 / 7), count) ** 7
    return 1 + np.argmin(np.abs(schedule.sigma[1:, None] - levels), axis=0)
