"""Super-resolution: the image is seen through means over square blocks."""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.spectral import FlatSpectrum
from lavps_jax.pytrees import static


class SuperResolution(FlatSpectrum):
    """y = mean of x over factor x factor blocks, (H / factor, W / factor, C).

    Attributes:
      factor: side of a block in pixels, static; divides H and W.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the factor does not divide the image.
    """

    measures_all: ClassVar[bool] = True

    factor: int = static()

    def __post_init__(self):
        super().__post_init__()
        height, width, _ = self.x_shape
        if self.factor < 1 or height % self.factor or width % self.factor:
            raise UserError(
                "factor", self.factor, f"give a positive divisor of the image {height} x {width}"
            )

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        height, width, channels = self.x_shape
        blocks = x.reshape(
            height // self.factor, self.factor, width // self.factor, self.factor, channels
        )
        return jnp.mean(blocks, axis=(1, 3))

    def adjoint(self, y: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        """A^+ y: every entry repeated over its block, exact, since A A^T = I / factor^2."""
        return jnp.repeat(jnp.repeat(y, self.factor, axis=0), self.factor, axis=1)

    def singular_value(self, dtype: Any) -> Float[Array, ""]:
        return jnp.asarray(1 / self.factor, dtype)

    def ridge(
        self, y: Float[Array, "h w C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        """A^T (A A^T + weight I)^-1 y = A^+ y / (1 + factor^2 weight), exact."""
        return self.pinv(y) / (1 + self.factor**2 * weight)
