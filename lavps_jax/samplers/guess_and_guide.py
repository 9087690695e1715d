"""Guess & Guide: a guess at one noise level, refined at few others (Shtanchaev et al. 2026)."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lavps_jax.diffusion.bridges import bridge_coefficients
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError, check_at_least, check_fraction, check_positive
from lavps_jax.problems.problem import Problem, log_likelihood
from lavps_jax.pytrees import static
from lavps_jax.samplers.base import Cost, GridSampler, Plan, Segment, State, ddim_times, on_device


class GuessAndGuideRow(NamedTuple):
    """One step.

    Attributes:
      t: int ().
      c_l, c_s, std: x_{t_prev} = c_l x_t + c_s x_0 + std noise, float ().
      guided: 1 where the prediction is moved towards y, otherwise 0, int ().
      spread: r_t = sqrt(1 - alpha_bar[t]), float ().
    """

    t: Any
    c_l: Any
    c_s: Any
    std: Any
    guided: Any
    spread: Any


def optimise(
    x_0_hat: Float[Array, "H W C"],
    problem: Problem,
    spread: Float[Array, ""],
    num_inner_steps: int,
    learning_rate: Any,
) -> Float[Array, "H W C"]:
    """Steps of Adam from x_0_hat on -log l(y | x) + ||x - x_0_hat||^2 / (2 spread^2).

    No derivative goes through a denoiser. Source: see `GuessAndGuide`.

    Args:
      x_0_hat: a prediction of the clean image, about in [-1, 1].
      problem: any operator and noise.
      spread: how far from it the clean image may be, positive, in units of images.
      num_inner_steps: at least 1.
      learning_rate: of Adam in units of the spread, positive.

    Returns:
      An image like x_0_hat.
    """

    def loss(x: Array) -> Array:
        return jnp.sum((x - x_0_hat) ** 2) / (2 * spread**2) - log_likelihood(problem, x)

    optimizer = optax.adam(learning_rate * spread)

    def adam_step(carry, _):
        x, memory = carry
        update, memory = optimizer.update(jax.grad(loss)(x), memory)
        moved: Any = optax.apply_updates(x, update)
        return (moved, memory), None

    start = (x_0_hat, optimizer.init(x_0_hat))
    (x, _), _ = jax.lax.scan(adam_step, start, None, length=num_inner_steps)
    return x


class GuessAndGuide(GridSampler):
    """Guess & Guide (Shtanchaev et al. 2026, arXiv:2603.07860).

    A guess: x_0 = optimise(D(x_t, t)), see `optimise`, first of pure noise at the last time, then
    `num_guesses` times at one time t_*, each after x_{t_*} = sqrt(alpha_bar[t_*]) x_0 + sqrt(1 -
    alpha_bar[t_*]) noise, the last as part of the first step down. Then DDIM steps from t_* down,
    of which the first and every `guide_every`-th after it move their prediction in the same way;
    the others, and the last prediction, are the denoiser's own, which can still mend what the moves
    broke. No derivative is taken through the denoiser.

    The description at hand gives these two phases; left open by it, and chosen here: the weight
    1 / r_t^2 of the prediction, r_t = sqrt(1 - alpha_bar[t]), the learning rate in units of r_t,
    all numbers, and that the first guess comes from pure noise.

    Attributes:
      num_steps: points of the time grid; those up to t_* are used.
      start: t_* over the last time, in (0, 1]; the grid time nearest to it is taken.
      num_guesses: denoisings at t_*, at least 1.
      guide_every: at least 1.
      num_inner_steps: of Adam, at least 1.
      learning_rate: of Adam, positive.
      eta: stochasticity of the DDIM steps, in [0, 1].
    """

    takes_noise: ClassVar = "any"

    start: float = static(default=0.6)
    num_guesses: int = static(default=10)
    guide_every: int = static(default=3)
    num_inner_steps: int = static(default=20)
    learning_rate: float = 0.1
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.start <= 1:
            raise UserError("start", self.start, "use a positive number, at most 1")
        for name in ("num_guesses", "guide_every", "num_inner_steps"):
            check_at_least(name, getattr(self, name), 1)
        check_positive("learning_rate", self.learning_rate)
        check_fraction("eta", self.eta)

    def _times(self, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
        """(t, t_prev) of the DDIM steps from t_* down."""
        t, t_prev = ddim_times(self.num_steps, schedule)
        first = int(np.argmin(np.abs(t - self.start * t[0])))
        return t[first:], t_prev[first:]

    def plan(self, schedule: Schedule) -> Plan:
        """One segment: the guesses, then the steps down."""
        t, t_prev = self._times(schedule)
        alpha_bar, count = schedule.alpha_bar, self.num_guesses
        # All guesses but the last are renoised at t_*; the step down from t_* follows the last one.
        last = schedule.num_times - 1
        both = np.concatenate([[last], np.full(count - 1, t[0]), t])
        signal, noise = alpha_bar[t[0]] ** 0.5, (1 - alpha_bar[t[0]]) ** 0.5
        down = bridge_coefficients(alpha_bar, 0, t_prev, t, self.eta)
        append = jnp.append if isinstance(self.eta, jax.Array) else np.append
        guided = np.arange(len(t)) % self.guide_every == 0
        rows = GuessAndGuideRow(
            t=both,
            c_l=append(np.zeros(count), down.c_l),
            c_s=append(np.full(count, signal), down.c_s),
            std=append(np.full(count, noise), down.std),
            guided=np.append(np.ones(count, np.int64), guided),
            spread=(1 - alpha_bar[both]) ** 0.5,
        )
        return (Segment(on_device(rows)),)

    def cost(self, schedule: Schedule) -> Cost:
        """One denoiser call a step, and one last call."""
        return Cost(self.num_guesses + len(self._times(schedule)[0]) + 1, 0, 0)

    def step(self, noise, state, prior, problem, segment, row: GuessAndGuideRow) -> State:
        """One step; the state's x_0 is the prediction at t, moved where the step is guided."""
        x_0_hat = prior(state.x_t, row.t, problem.label)

        def moved() -> Array:
            rate = self.learning_rate
            return optimise(x_0_hat, problem, row.spread, self.num_inner_steps, rate)

        x_0 = jax.lax.cond(row.guided != 0, moved, lambda: x_0_hat)
        return State(row.c_l * state.x_t + row.c_s * x_0 + row.std * noise, x_0)
