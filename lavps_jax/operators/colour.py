"""Colorization: only the brightness of a colour image is seen."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.spectral import FlatSpectrum


class Brightness(FlatSpectrum):
    """y = sum_c weights[c] x[..., c], (H, W, 1). A A^T = |weights|^2 I.

    Attributes:
      weights: float (C,), not all zero.
      x_shape: shape (H, W, C) of the image, static, C > 1.
    Raises:
      UserError: if the image has one channel, or there is not one weight for each.
    """

    measures_all: ClassVar[bool] = True

    weights: Float[Array, " C"]

    def __post_init__(self):
        super().__post_init__()
        if self.x_shape[-1] < 2:
            raise UserError("channels of the images", self.x_shape[-1], "give colour images")
        shape = getattr(self.weights, "shape", ())
        if shape and shape[-1] != self.x_shape[-1]:
            raise UserError("weights", f"shape {shape}", f"give {self.x_shape[-1]} of them")

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W 1"]:
        return jnp.sum(x * self.weights[None, None], axis=-1, keepdims=True)

    def adjoint(self, y: Float[Array, "H W 1"]) -> Float[Array, "H W C"]:
        return y * self.weights[None, None]

    def pinv(self, y: Float[Array, "H W 1"]) -> Float[Array, "H W C"]:
        """A^+ y = A^T y / |weights|^2, exact."""
        return self.adjoint(y) / jnp.sum(self.weights**2)

    def singular_value(self, dtype: Any) -> Float[Array, ""]:
        return jnp.sqrt(jnp.sum(self.weights**2)).astype(dtype)

    def ridge(
        self, y: Float[Array, "H W 1"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self.adjoint(y) / (jnp.sum(self.weights**2) + weight)
