"""The supervised baseline: a denoiser that is trained to see the measurement."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.bridges import levels
from lavps_jax.diffusion.conditioning import as_measurement, pseudo_inverse
from lavps_jax.diffusion.parameterisations import EDM
from lavps_jax.diffusion.pivot import pivot
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks import InverseRule
from lavps_jax.networks.tiled import Model
from lavps_jax.problems.problem import Problem
from lavps_jax.pytrees import Node, static
from lavps_jax.types import Weights


class SupervisedDenoiser(Node):
    """E[x_0 | x_t, y] from a supervised network that sees A^+ y, or more of the measurement.

    Source: Saharia et al., "Palette", SIGGRAPH 2022, arXiv:2111.05826, EDM-preconditioned here.

    Attributes:
      weights: of the network.
      model: the raw network F(weights, c_in z, x_pinv, c_noise), or F(weights, c_in z, mu*,
        c_noise, std), static.
      schedule: noise schedule of the times, static.
      inverse: how A^+ y is made, see `pseudo_inverse`, static.
      sees_measurement: whether the network acts with A on its features, static.
      pivot: whether it corrects the pivot (`lavps_jax.diffusion.pivot`) and not c_skip z, static.
    """

    weights: Weights
    model: Model = static()
    schedule: Schedule = static(default=Schedule())
    inverse: InverseRule = static(default="ridge")
    sees_measurement: bool = static(default=False)
    pivot: bool = static(default=False)

    def prepare(self, problem: Problem) -> Any:
        """What is the same in all evaluations for a problem: A^+ y, if the network sees it."""
        return () if self.pivot else pseudo_inverse(problem, self.inverse)

    def predict(
        self,
        z: Float[Array, "H W C"],
        problem: Problem,
        prepared: Any,
        sigma_t: Float[Array, ""],
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "H W C"], Float[Array, ""]]:
        """(D(z, sigma_t; y), scale) for z = x_0 + sigma_t eps: the scale of what F corrects."""
        c = EDM()(sigma_t)
        measurement = as_measurement(problem, self.inverse) if self.sees_measurement else None
        if self.pivot:
            guess, std, scale = pivot(problem, z, sigma_t)
            seen = (guess, c.c_noise, std)
        else:
            guess, scale, seen = c.c_skip * z, c.c_out, (prepared, c.c_noise)
        correction = self.model(
            self.weights,
            c.c_in * z,
            *seen,
            label=problem.label,
            measurement=measurement,
            dropout_key=dropout_key,
        )
        return guess + scale * correction, scale

    def __call__(
        self, x_t: Float[Array, "H W C"], problem: Problem, prepared: Any, t: Int[Array, ""]
    ) -> Float[Array, "H W C"]:
        """E[x_0 | x_t, y]; arguments as `Denoiser`, and the measurement."""
        sqrt_alpha_bar, sigma_t = levels(self.schedule, t, x_t.dtype)
        return self.predict(x_t / sqrt_alpha_bar, problem, prepared, sigma_t)[0]
