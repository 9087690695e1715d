"""MGPS: every step passes through a fitted midpoint (Moufad et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.bridges import BridgeCoefficients, bridge_coefficients, bridge_draw
from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, check_at_least, check_fraction, check_positive
from lavps_jax.problems.problem import Problem, log_likelihood
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, GridSampler, Plan, Segment, State, ddim_times, on_device
from lavps_jax.samplers.variational import draw
from lavps_jax.types import PRNGKey

_LAST_UNREFINED = 20
"""No step is refined from this grid index downwards, as the authors have it for 300 steps."""


class Estimation(NamedTuple):
    """What a step with an estimate of x_1 needs besides.

    Attributes:
      start: q(x_tau | x_1, x_t), whose mean is where the fit of the midpoint begins.
      prior: of the estimate, q(x_1 | x_0, x_tau).
      scale, noise: scale x_tau = x_1 + noise eps, scale = sqrt(alpha_bar[1] / alpha_bar[tau]).
      bridge: x_{t_prev} ~ q(x_{t_prev} | x_1, x_t).
    """

    start: BridgeCoefficients
    prior: BridgeCoefficients
    scale: Any
    noise: Any
    bridge: BridgeCoefficients


class MGPSRow(NamedTuple):
    """One step from time t to t_prev through tau.

    Attributes:
      t, tau, t_prev: int ().
      num_inner_steps: of a fit, int ().
      prior: of the midpoint, q(x_tau | x_0, x_t).
      bridge: x_{t_prev} ~ q(x_{t_prev} | x_tau, x_t).
      estimation: None where x_1 is not estimated.
    """

    t: Any
    tau: Any
    t_prev: Any
    num_inner_steps: Any
    prior: BridgeCoefficients
    bridge: BridgeCoefficients
    estimation: Estimation | None


class MGPSNoise(NamedTuple):
    """Standard normal draws of one step; a fit of fewer steps leaves the last ones unused.

    Attributes:
      elbo_tau, elbo_1: one per loss and at least one, float (K, H, W, C).
      x_tau, x_1, bridge: float (H, W, C).
    """

    elbo_tau: Array
    elbo_1: Array
    x_tau: Array
    x_1: Array
    bridge: Array


class MGPS(GridSampler):
    """Midpoint-guided posterior sampling (Moufad et al., ICLR 2025, arXiv:2410.09945, algorithm 1).

    A step from t to t_prev goes through tau = floor(midpoint t_prev): with x_0_hat = D(x_t, t), a
    diagonal Gaussian is fitted to q(x_tau | x_0_hat, x_t) l(y | D(x_tau, tau)), x_tau is a draw of
    it, and x_{t_prev} ~ q(x_{t_prev} | x_tau, x_t). The last prediction is the sample.

    Three things are the authors' program's (github.com/YazidJanati/mgps), and nothing works without
    them. A fit begins where the last step's estimate, D(x_tau, tau), is the clean image. At times
    from `estimate_from` on, where a step forgets nearly all that the fit has found, that estimate
    is x_1 itself: a second diagonal Gaussian is fitted to p(x_1) q(x_tau | x_1) l(y | x_1), with
    the score of the denoiser as the derivative of log p, and x_{t_prev} ~ q(x_{t_prev} | x_1, x_t).
    Of the Kullback-Leibler divergence only the likelihood, and that score, is a draw; the rest is
    in closed form.

    Defaults are the authors' for FFHQ: 2 steps of Adam, 20 in the first five diffusion steps and
    where the grid index is a multiple of ten above 20 (of whatever number of steps). For mixtures
    they take a learning rate of .1, no estimates of x_1, and refine the first ten. Here a midpoint
    at time 1 is denoised too, and x_1 is not estimated from one.

    Attributes:
      num_inner_steps: of Adam, at least 0.
      num_refined_steps: of Adam in refined steps, at least `num_inner_steps`.
      num_first: how many diffusion steps are refined at the start.
      refine_every: and then where the grid index is a multiple of it above 20, at least 1.
      learning_rate: of Adam, positive.
      estimate_from: in units of the last time T; 1 is never.
      num_steps: points of the time grid; num_steps - 2 steps.
      midpoint: alpha of tau, in [0, 1]; tau is at least 1.
    """

    takes_noise: ClassVar = "any"

    num_steps: int = static(default=300)
    num_inner_steps: int = static(default=2)
    num_refined_steps: int = static(default=20)
    num_first: int = static(default=5)
    refine_every: int = static(default=10)
    learning_rate: float = 0.03
    estimate_from: float = static(default=0.7)
    midpoint: float = static(default=0.5)

    def __post_init__(self):
        super().__post_init__()
        least = {
            "num_inner_steps": 0,
            "num_refined_steps": self.num_inner_steps,
            "num_first": 0,
            "refine_every": 1,
        }
        for name, value in least.items():
            check_at_least(name, getattr(self, name), value)
        check_positive("learning_rate", self.learning_rate)
        if not self.estimate_from >= 0:
            raise UserError("estimate_from", self.estimate_from, "use 0 or more; 1 is never")
        check_fraction("midpoint", self.midpoint)

    def _steps(
        self, schedule: Schedule
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(t, tau, t_prev, steps of Adam, whether x_1 is estimated) of all steps."""
        t, t_prev = ddim_times(self.num_steps, schedule)
        tau = np.maximum(np.floor(self.midpoint * t_prev).astype(int), 1)
        index = self.num_steps - 1 - np.arange(len(t))
        refined = (index >= self.num_steps - self.num_first) | (
            (index % self.refine_every == 0) & (index > _LAST_UNREFINED)
        )
        count = np.where(refined, self.num_refined_steps, self.num_inner_steps)
        # Between x_1 and x_tau there must be some noise.
        estimated = (t >= self.estimate_from * schedule.num_times) & (tau > 1)
        return t, tau, t_prev, count, estimated

    def plan(self, schedule: Schedule) -> Plan:
        """Up to two segments, settings: whether x_1 is estimated."""
        t, tau, t_prev, count, estimated = self._steps(schedule)
        table = schedule.alpha_bar
        segments = []
        for estimates in (True, False):
            chosen = estimated == estimates
            high, mid, low = t[chosen], tau[chosen], t_prev[chosen]
            if not chosen.any():
                continue
            rows = MGPSRow(
                t=high,
                tau=mid,
                t_prev=low,
                num_inner_steps=count[chosen],
                prior=bridge_coefficients(table, 0, mid, high, 1.0),
                bridge=bridge_coefficients(table, mid, low, high, 1.0),
                estimation=Estimation(
                    start=bridge_coefficients(table, 1, mid, high, 1.0),
                    prior=bridge_coefficients(table, 0, 1, mid, 1.0),
                    scale=np.sqrt(table[1] / table[mid]),
                    noise=np.sqrt(table[1] / table[mid] - 1),
                    bridge=bridge_coefficients(table, 1, low, high, 1.0),
                )
                if estimates
                else None,
            )
            segments.append(Segment(on_device(rows), estimates))
        return tuple(segments)

    def cost(self, schedule: Schedule) -> Cost:
        """Two predictions at the ends; in a step two, or one and an estimate, and the fits."""
        *_, count, estimated = self._steps(schedule)
        fits = int(count.sum())
        estimates = int(count[estimated].sum())
        return Cost(2 + 2 * len(count) + fits + estimates, fits, 0)

    def init(self, eps: Float[Array, "H W C"], prior: Denoiser, problem: Problem) -> State:
        """x_T ~ N(0, I) at the last grid time, and its denoised image."""
        last = jnp.asarray(prior.schedule.num_times - 1)
        return State(eps, prior(eps, last, problem.label))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> MGPSNoise:
        """The draws of one step."""
        keys = jax.random.split(rng_key, 5)
        fits = (max(self.num_refined_steps, 1),)
        shapes = [fits, fits, (), (), ()]
        return MGPSNoise(
            *(
                jax.random.normal(key, (*shape, *x_shape))
                for key, shape in zip(keys, shapes, strict=True)
            )
        )

    def step(
        self, noise: MGPSNoise, state, prior, problem, segment: Segment, row: MGPSRow
    ) -> State:
        """One step; the state's x_0 is the estimate that the next fit begins with."""
        x_0_hat = prior(state.x_t, row.t, problem.label)
        mean = row.prior.c_l * state.x_t + row.prior.c_s * x_0_hat
        std = jnp.asarray(row.prior.std)
        start = row.prior if row.estimation is None else row.estimation.start

        def midpoint_loss(mu: Array, rho: Array, eps: Array) -> Array:
            x_0 = prior(draw(eps, mu, rho), row.tau, problem.label)
            return -log_likelihood(problem, x_0) + _divergence(mu, rho, mean, std)

        x_tau = self._fitted_draw(
            noise.elbo_tau,
            noise.x_tau,
            start.c_l * state.x_t + start.c_s * state.x_0,
            jnp.asarray(start.std),
            row.num_inner_steps,
            midpoint_loss,
        )
        x_0 = prior(x_tau, row.tau, problem.label)
        if row.estimation is None:
            return State(bridge_draw(noise.bridge, row.bridge, state.x_t, x_tau), x_0)
        x_1 = self._estimate(noise, x_tau, x_0, prior, problem, row)
        return State(bridge_draw(noise.bridge, row.estimation.bridge, state.x_t, x_1), x_1)

    def _estimate(self, noise: MGPSNoise, x_tau, x_0, denoiser, problem, row: MGPSRow) -> Array:
        """x_1 from a Gaussian fitted to p(x_1) q(x_tau | x_1) l(y | x_1)."""
        assert row.estimation is not None
        _, prior, scale, noise_std, _ = row.estimation
        alpha_bar = float(denoiser.schedule.alpha_bar[1])

        def loss(mu: Array, rho: Array, eps: Array) -> Array:
            x_1 = draw(eps, mu, rho)
            fixed = jax.lax.stop_gradient(x_1)
            x_0 = denoiser(fixed, jnp.asarray(1), problem.label)
            score = (jnp.sqrt(alpha_bar) * x_0 - fixed) / (1 - alpha_bar)
            noising = _expected_square(mu, rho, scale * x_tau, noise_std)  # -E log q(x_tau | x_1)
            return -log_likelihood(problem, x_1) - jnp.sum(x_1 * score) + noising - jnp.sum(rho)

        mean = prior.c_l * x_tau + prior.c_s * x_0
        std = jnp.asarray(prior.std)
        return self._fitted_draw(noise.elbo_1, noise.x_1, mean, std, row.num_inner_steps, loss)

    def _fitted_draw(
        self,
        elbo: Float[Array, "K H W C"],
        eps: Float[Array, "H W C"],
        mean: Float[Array, "H W C"],
        std: Float[Array, ""],
        num_inner_steps: Int[Array, ""],
        loss_fn: Callable[[Array, Array, Array], Array],
    ) -> Float[Array, "H W C"]:
        """A draw of the Gaussian that Adam finds from N(mean, std^2 I)."""
        optimizer = optax.adam(self.learning_rate)

        def step(k, carry):
            (mu, rho), state = carry
            gradient = jax.grad(loss_fn, (0, 1))(mu, rho, elbo[k])
            update, state = optimizer.update(gradient, state)
            return optax.apply_updates((mu, rho), update), state

        start = mean, jnp.broadcast_to(jnp.log(std), mean.shape)
        carry = start, optimizer.init(start)
        # The number of steps is a value, not a part of the program: refined steps need no own one.
        (mu, rho), _ = jax.lax.fori_loop(0, num_inner_steps, step, carry)
        return draw(eps, mu, rho)


def _expected_square(mu: Array, rho: Array, mean: Array, std: Array) -> Float[Array, ""]:
    """E ||(x - mean) / std||^2 / 2 of x ~ N(mu, diag exp(2 rho)), float ()."""
    return jnp.sum((mu - mean) ** 2 + jnp.exp(2 * rho)) / (2 * std**2)


def _divergence(mu: Array, rho: Array, mean: Array, std: Array) -> Float[Array, ""]:
    """KL(N(mu, diag exp(2 rho)) || N(mean, std^2 I)) up to a constant, float ()."""
    return _expected_square(mu, rho, mean, std) - jnp.sum(rho)
