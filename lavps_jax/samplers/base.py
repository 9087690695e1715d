"""What the samplers share: the state of one particle, and a run as a plan of segments."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float

from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.errors import UserError
from lavps_jax.operators import LinearOperator
from lavps_jax.problems.noise import CustomNoise
from lavps_jax.types import Params, PRNGKey, Problem

__all__ = [
    "Cost",
    "Plan",
    "Sampler",
    "Segment",
    "State",
    "check_gaussian",
    "check_linear",
    "check_schedule",
    "check_spectral",
    "is_finite",
    "on_device",
]


class State(NamedTuple):
    """What the next step needs of one particle.

    Attributes:
      x_t: the image at the last time.
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


class Segment(struct.PyTreeNode):
    """Neighbouring steps that run the same program with other numbers.

    Attributes:
      rows: what differs from step to step, leaves with steps on axis 0.
      settings: what decides the program (counts, starts), static and hashable.
    """

    rows: Any
    settings: Any = struct.field(pytree_node=False, default=None)


Plan = tuple[Segment, ...]


class Sampler(Protocol):
    """A sampler of one particle; frozen, hashable, equal by value.

    `noise` and `step` are separate so that the same step can be replayed with given noise.
    """

    def plan(self) -> Plan:
        """The run as data, made on the host in float64."""
        ...

    def cost(self) -> Cost:
        """Evaluations per particle."""
        ...

    def check(self, problem: Problem) -> None:
        """Raises a UserError if the method cannot take such a problem; before anything runs."""
        ...

    def init(self, eps: Float[Array, "H W C"], params: Params, problem: Problem) -> State:
        """The state before the first step, from standard normal noise at the last time."""
        ...

    def noise(self, rng_key: PRNGKey, x_shape: tuple[int, ...], segment: Segment) -> Any:
        """All standard normal draws of one step."""
        ...

    def step(
        self, noise: Any, state: State, params: Params, problem: Problem, segment: Segment, row: Any
    ) -> State:
        """One step; row is one slice of segment.rows."""
        ...

    def finish(self, state: State, params: Params, problem: Problem) -> Float[Array, "H W C"]:
        """The sample, from the state after the last step."""
        ...


def check_schedule(denoise_fn: Any, schedule: Schedule) -> None:
    """Raises a UserError if the denoiser tells its noise schedule and it is another one."""
    expected = getattr(denoise_fn, "schedule", schedule)
    if expected != schedule:
        raise UserError("schedule", schedule, f"use that of the denoiser, {expected}")


def on_device(rows: Any) -> Any:
    """Rows made on the host, integers as int32 and everything else as the default float."""

    def convert(leaf: np.ndarray) -> Array:
        if np.issubdtype(leaf.dtype, np.integer):
            return jnp.asarray(leaf, jnp.int32)
        assert not np.isnan(leaf).any()
        return jnp.asarray(leaf, jnp.result_type(float))

    return jax.tree.map(convert, rows)


def check_gaussian(problem: Problem, method: str) -> None:
    """Raises a UserError unless sigma_y says how strong the noise is: exactly or, of Poisson noise,
    as a typical standard deviation."""
    if isinstance(problem.noise, CustomNoise):
        remedy = f"use MGDM or LAVPS: {method} takes the noise as Gaussian"
        raise UserError("noise", "a log-likelihood", remedy)


def check_linear(problem: Problem, method: str) -> None:
    """Raises a UserError unless the operator is linear."""
    if not isinstance(problem.operator, LinearOperator):
        remedy = f"use MGDM, LAVPS or DPS: {method} takes linear operators only"
        raise UserError("operator", type(problem.operator).__name__, remedy)


def check_spectral(problem: Problem, method: str) -> None:
    """Raises a UserError unless the operator is linear and knows its singular values."""
    check_linear(problem, method)
    x_like = jax.ShapeDtypeStruct(problem.operator.x_shape, jnp.float32)
    jax.eval_shape(lambda x: problem.operator.spectral(jnp.ones_like, x), x_like)


def is_finite(state: State) -> Bool[Array, ""]:
    """Whether a state has numbers alone, bool ()."""
    return jnp.all(jnp.isfinite(state.x_0)) & jnp.all(jnp.isfinite(state.x_t))
