"""The supervised baseline: a denoiser that is trained to see the measurement."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float, Int

from lavps_jax.diffusion.denoisers import edm_preconditioning, levels
from lavps_jax.diffusion.pivot import pivot
from lavps_jax.diffusion.schedules import Schedule
from lavps_jax.networks import InverseRule
from lavps_jax.networks.tiled import Model
from lavps_jax.problems.likelihoods import network_inputs
from lavps_jax.types import Problem, Weights

__all__ = ["SupervisedDenoiser"]


@dataclass(frozen=True)
class SupervisedDenoiser:
    """E[x_0 | x_t, y] from a supervised network that sees A^+ y, or more of the measurement.

    Source: Saharia et al., "Palette", SIGGRAPH 2022, arXiv:2111.05826, EDM-preconditioned here.

    Attributes:
      model: the raw network F(c_in z, x_pinv, c_noise), or F(c_in z, mu*, c_noise, std).
      schedule: noise schedule of the times.
      inverse, sees_measurement: as in `lavps_jax.samplers.starts.Amortized`.
      pivot: whether the network corrects the pivot (`lavps_jax.diffusion.pivot`) and not c_skip z.
    """

    model: Model
    schedule: Schedule = Schedule()
    inverse: InverseRule = "ridge"
    sees_measurement: bool = False
    pivot: bool = False

    def predict(
        self,
        theta: Weights,
        z: Float[Array, "H W C"],
        problem: Problem,
        sigma_t: Float[Array, ""],
        dropout_key: Array | None = None,
    ) -> tuple[Float[Array, "H W C"], Float[Array, ""]]:
        """(D(z, sigma_t; y), scale) for z = x_0 + sigma_t eps: the scale of what F corrects."""
        c = edm_preconditioning(sigma_t)
        # Of a pivot the network does not see A^+ y: the rule that costs nothing will do.
        rule = "ridge" if self.pivot and not self.sees_measurement else self.inverse
        x_pinv, measurement = network_inputs(problem, rule, self.sees_measurement)
        guess, scale, given = c.c_skip * z, c.c_out, (x_pinv, c.c_noise)
        if self.pivot:
            guess, std, scale = pivot(problem, z, sigma_t)
            given = (guess, c.c_noise, std)
        correction = self.model(
            theta,
            c.c_in * z,
            *given,
            label=problem.label,
            measurement=measurement,
            dropout_key=dropout_key,
        )
        return guess + scale * correction, scale

    def __call__(
        self,
        theta: Weights,
        x_t: Float[Array, "H W C"],
        problem: Problem,
        t: Int[Array, ""],
    ) -> Float[Array, "H W C"]:
        """E[x_0 | x_t, y]; arguments as `EDMDenoiser`, and the measurement."""
        sqrt_alpha_bar, sigma_t = levels(self.schedule, t, x_t.dtype)
        return self.predict(theta, x_t / sqrt_alpha_bar, problem, sigma_t)[0]
