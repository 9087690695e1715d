"""Compressed sensing: few random combinations of the pixels are measured."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lavps_jax.errors import UserError
from lavps_jax.operators.spectral import FlatSpectrum

__all__ = ["ScrambledHadamard", "walsh_hadamard"]


class ScrambledHadamard(FlatSpectrum):
    """y = S W P x for every channel, (m, C): shuffled, transformed in blocks, subsampled.

    P is a permutation of the H * W pixels, W the orthonormal Walsh-Hadamard transform of blocks as
    long as the largest power of two that divides H * W, and S picks m coefficients. A A^T = I for
    any size of image. Source: Gan, Do, Tran, "Fast compressive imaging using scrambled block
    Hadamard ensemble", EUSIPCO 2008.

    Attributes:
      order: P, a permutation of 0 ... H * W - 1, int (H * W,).
      rows: S, different coefficients out of H * W, int (m,).
      x_shape: shape (H, W, C) of the image, static.
    Raises:
      UserError: if the number of pixels is odd: there would be nothing to combine.
    """

    order: Int[Array, " N"]
    rows: Int[Array, " m"]

    def __post_init__(self):
        if self._num_pixels % 2:
            shape = f"{self.x_shape[0]} x {self.x_shape[1]}"
            raise UserError("size of the images", shape, "give an even number of pixels")

    @property
    def _num_pixels(self) -> int:
        return self.x_shape[0] * self.x_shape[1]

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "m C"]:
        pixels = x.reshape(self._num_pixels, -1)[self.order]
        return self._transform(pixels)[self.rows]

    def adjoint(self, y: Float[Array, "m C"]) -> Float[Array, "H W C"]:
        coefficients = jnp.zeros((self._num_pixels, y.shape[-1]), y.dtype).at[self.rows].set(y)
        pixels = self._transform(coefficients)  # Symmetric.
        return jnp.zeros_like(pixels).at[self.order].set(pixels).reshape(self.x_shape)

    def pinv(self, y: Float[Array, "m C"]) -> Float[Array, "H W C"]:
        """A^+ y = A^T y, exact."""
        return self.adjoint(y)

    def ridge(
        self, y: Float[Array, "m C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self.adjoint(y) / (1 + weight)

    def _transform(self, pixels: Float[Array, "N C"]) -> Float[Array, "N C"]:
        block = self._num_pixels & -self._num_pixels  # Its largest divisor that is a power of two.
        blocks = pixels.T.reshape(pixels.shape[-1], -1, block)
        return walsh_hadamard(blocks).reshape(pixels.shape[-1], -1).T


def walsh_hadamard(values: Float[Array, "*batch N"]) -> Float[Array, "*batch N"]:
    """Orthonormal Walsh-Hadamard transform of the last axis, natural order; its own inverse.

    Args:
      values: the length N is a power of two.
    """
    shape, step = values.shape, 1
    while step < shape[-1]:
        pairs = values.reshape(*shape[:-1], -1, 2, step)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        values = jnp.stack([first + second, first - second], axis=-2).reshape(shape)
        step *= 2
    return values / jnp.sqrt(jnp.asarray(shape[-1], values.dtype))
