"""Inpainting: some pixels are measured, the others are not."""

from __future__ import annotations

import jax.numpy as jnp
from jax import ShapeDtypeStruct
from jax.core import Tracer
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.spectral import FlatSpectrum


class Inpainting(FlatSpectrum):
    """y = mask * x. y keeps the image shape, with zeros at the missing pixels.

    Attributes:
      mask: float (H, W, 1), 1 at the observed pixels and 0 elsewhere, the same for all channels.
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the mask does not have the shape (H, W, 1), has other values, or hides nothing
        or everything; masks that are being traced and stacks are not looked at, see `check`.
    """

    mask: Float[Array, "H W 1"]

    def __post_init__(self):
        super().__post_init__()
        # A stack of operators is built here too: look at the last axes only.
        shape = getattr(self.mask, "shape", ())
        expected = (*self.x_shape[:2], 1)
        forgot_channel = tuple(shape) == expected[:2]
        if forgot_channel or (len(shape) >= 3 and tuple(shape[-3:]) != expected):
            raise UserError("mask", f"shape {shape}", f"give the shape {expected}")
        if tuple(shape) == expected and not isinstance(self.mask, Tracer | ShapeDtypeStruct):
            self.check()

    def check(self) -> None:
        check_mask(self.mask)
        if jnp.all(self.mask == 1):
            remedy = "give 0 where nothing was measured; of whole images the operator is Identity"
            raise UserError("mask", "ones alone, which hide nothing", remedy)

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.mask * x

    def project(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.mask * y

    def num_observed(self) -> Float[Array, ""]:
        return jnp.sum(self.mask) * self.x_shape[-1]

    def adjoint(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return self.mask * y

    def pinv(self, y: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        """A^+ y = mask * y, exact: singular values are 0 and 1."""
        return self.mask * y

    def ridge(
        self, y: Float[Array, "H W C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        """mask * y / (1 + weight), exact."""
        return self.mask * y / (1 + weight)


def check_mask(mask: Float[Array, "H W 1"]) -> None:
    """Raises a UserError unless the mask holds ones and zeros, and a one."""
    if not jnp.all((mask == 0) | (mask == 1)) or not jnp.any(mask):
        found = f"values from {jnp.min(mask)} to {jnp.max(mask)}"
        raise UserError("mask", found, "give 1 where something was measured and 0 elsewhere")
