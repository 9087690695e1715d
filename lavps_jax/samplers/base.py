"""What the samplers share: the state of one particle, and a run as a plan of segments."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lavps_jax.diffusion.denoisers import Denoiser
from lavps_jax.diffusion.schedules import Schedule, time_grid
from lavps_jax.errors import UserError, check_at_least
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.noise import Custom
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import Node, static
from lavps_jax.types import PRNGKey


class State(NamedTuple):
    """What the next step needs of one particle.

    Attributes:
      x_t: the noisy image at the time reached so far.
      x_0: the estimate of the clean image.
      memory: what else a method carries from step to step, such as moments of an optimizer.
    """

    x_t: Float[Array, "H W C"]
    x_0: Float[Array, "H W C"]
    memory: Any = ()


class Cost(NamedTuple):
    """Evaluations per particle of one run, known before it starts.

    Attributes:
      network_calls: forward evaluations of the denoiser, those inside a derivative included.
      vjps: vector-Jacobian products through the denoiser.
      amortized_calls: evaluations of the amortized network.
    """

    network_calls: int
    vjps: int
    amortized_calls: int


class Segment(Node):
    """Consecutive steps that run one program, each with its own numbers.

    Attributes:
      rows: what differs from step to step, leaves with steps on axis 0.
      settings: what decides the program, static and hashable.
    """

    rows: Any
    settings: Any = static(default=None)


Plan = tuple[Segment, ...]


class Sampler(Node):
    """A sampler of one particle of one image, which is its own settings: a frozen pytree.

    Numbers that enter the arithmetic (step sizes, eta, learning rates) are leaves, so that a new
    one runs the same program and a list of them runs under `jax.vmap`; counts and choices are
    static. Subclasses give `plan`, `cost` and `step`; the rest has a default. `noise` and `step`
    are separate so that the same step can be replayed with given noise.

    Class attributes (override in a subclass):
      takes_operator: which operators the method can use: any, linear ones, or linear ones with
        known singular values.
      takes_noise: which noise: any, or Gaussian noise; other noise is then taken as Gaussian of
        its typical standard deviation; a `Custom` log-likelihood is refused.
    """

    takes_operator: ClassVar[Literal["any", "linear", "spectral"]] = "any"
    takes_noise: ClassVar[Literal["any", "gaussian"]] = "gaussian"

    def plan(self, schedule: Schedule) -> Plan:
        """The run as data, made on the host in float64, except for what enters by traced leaves.

        Args:
          schedule: noise schedule of the prior.

        Raises:
          UserError: if the schedule has fewer times than the sampler has steps.
        """
        raise NotImplementedError

    def cost(self, schedule: Schedule) -> Cost:
        """Evaluations per particle."""
        raise NotImplementedError

    def check(self, problem: Problem) -> None:
        """Raises a UserError if the method cannot take such a problem; before anything runs."""
        method, operator = type(self).__name__, problem.operator
        if self.takes_noise == "gaussian" and isinstance(problem.noise, Custom):
            remedy = f"use MGDM or LAVPS: {method} takes the noise as Gaussian"
            raise UserError("noise", "a log-likelihood", remedy)
        if self.takes_operator == "any":
            return
        if not isinstance(operator, LinearOperator):
            remedy = f"use MGDM, LAVPS or DPS: {method} takes linear operators only"
            raise UserError("operator", type(operator).__name__, remedy)
        if self.takes_operator == "spectral":
            try:
                operator.check_spectrum()
            except UserError as error:
                remedy = f"use PiGDM, MGDM or LAVPS: {method} needs known singular values"
                raise UserError("operator", error.value, remedy) from None

    def init(self, eps: Float[Array, "H W C"], prior: Denoiser, problem: Problem) -> State:
        """The state before the first step, from standard normal eps: x_T = eps."""
        return State(eps, jnp.zeros_like(eps))

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Any:
        """All standard normal draws of one step: one image."""
        return jax.random.normal(rng_key, x_shape)

    def step(
        self,
        noise: Any,
        state: State,
        prior: Denoiser,
        problem: Problem,
        segment: Segment,
        row: Any,
    ) -> State:
        """One step; row is one slice of segment.rows."""
        raise NotImplementedError

    def finish(self, state: State, prior: Denoiser, problem: Problem) -> Float[Array, "H W C"]:
        """The sample, from the state after the last step: its x_0."""
        return state.x_0


class GridSampler(Sampler):
    """A sampler of one denoiser call a step, with a last prediction at the lowest time above 0.

    Attributes:
      num_steps: points of the time grid, at least 3; num_steps - 2 steps and one last prediction.
    """

    num_steps: int = static(default=100)

    def __post_init__(self):
        check_at_least("num_steps", self.num_steps, 3)

    def cost(self, schedule: Schedule) -> Cost:
        return Cost(self.num_steps - 1, 0, 0)

    def finish(self, state: State, prior: Denoiser, problem: Problem) -> Float[Array, "H W C"]:
        """The prediction at the lowest grid time above 0."""
        t = ddim_times(self.num_steps, prior.schedule)[1][-1]
        return prior(state.x_t, jnp.asarray(t), problem.label)


def ddim_times(num_steps: int, schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Times (t, t_prev) of the steps from the last grid time down to the second lowest one, which
    is above 0; int64 (num_steps - 2,).

    Raises:
      UserError: if num_steps is out of range.
    """
    if not 3 <= num_steps <= schedule.num_times:
        raise UserError("num_steps", num_steps, f"use 3 to {schedule.num_times}")
    times = time_grid(num_steps, schedule)[::-1]
    return times[:-2], times[1:-1]


def on_device(rows: Any) -> Any:
    """Rows made on the host, integers as int32 and everything else as the default float."""

    def convert(leaf: Any) -> Array:
        kind = jnp.int32 if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.result_type(float)
        return jnp.asarray(leaf, kind)

    return jax.tree.map(convert, rows)


def is_finite(state: State) -> Bool[Array, ""]:
    """Whether a state has numbers alone, bool ()."""
    return jnp.all(jnp.isfinite(state.x_0)) & jnp.all(jnp.isfinite(state.x_t))
