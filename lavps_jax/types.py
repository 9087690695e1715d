"""The data that flows between modules: one measurement, and the protocols of its parts."""

from __future__ import annotations

from typing import Any, Protocol

from flax import struct
from jaxtyping import Array, Float, Int

__all__ = ["DenoiseFn", "Params", "Problem", "PRNGKey", "Weights"]

PRNGKey = Array
Weights = Any
"""A pytree of arrays."""
Params = dict[str, Weights]
"""``{"theta": denoiser weights, "phi": weights of another network}``, which starts, supervised
denoisers and generators need."""


class DenoiseFn(Protocol):
    """E[x_0 | x_t] of one image: ``(theta, x_t, t) -> x_0_hat``. Hashable, equal by value.

    A class-conditional one also takes ``label``, see `Problem.label`.
    """

    def __call__(
        self, theta: Weights, x_t: Float[Array, "H W C"], t: Int[Array, ""]
    ) -> Float[Array, "H W C"]: ...


class Problem(struct.PyTreeNode):
    """One measurement of one image; stack the leaves for a batch of measurements.

    Attributes:
      y: observation, any shape.
      operator: the map A with y = A(x_0) + sigma_y * noise.
      sigma_y: standard deviation of the noise, float (), in the units of y.
      x_pinv: the observation brought back to image space, A^+ y, float (H, W, C): what networks
        see of y. It does not change along a run, so it is computed once, here.
      noise: a `lavps_jax.problems.noise.Noise` where it is not Gaussian; sigma_y is then a typical
        standard deviation, from which starts are made. None is Gaussian.
      label: class of the image for a class-conditional prior, one-hot float (K,); None is unknown.
    """

    y: Array
    operator: Any
    sigma_y: Float[Array, ""]
    x_pinv: Float[Array, "H W C"]
    label: Float[Array, " K"] | None = None
    noise: Any = None
