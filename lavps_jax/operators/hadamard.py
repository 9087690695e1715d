"""Compressed sensing: few random combinations of the pixels are measured."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.scipy.fft import dct, idct
from jaxtyping import Array, Float, Int

from lavps_jax.errors import UserError
from lavps_jax.operators.spectral import FlatSpectrum


class ScrambledHadamard(FlatSpectrum):
    """y = S W P x for every channel, (m, C): shuffled, transformed, subsampled.

    P is a permutation of the N = H * W pixels, S picks m coefficients, and W is orthonormal, so
    that A A^T = I: for N = 2^a q with q odd, the Walsh-Hadamard transform of length 2^a along the
    columns of the pixels as a (q, 2^a) matrix and the discrete cosine transform along its rows.
    Every coefficient combines all pixels, whatever the size of the image. Source, with blocks
    instead of cosines: Gan, Do, Tran, "Fast compressive imaging using scrambled block Hadamard
    ensemble", EUSIPCO 2008.

    Attributes:
      order: P, a permutation of 0 ... H * W - 1, int (H * W,).
      rows: S, different coefficients out of H * W, int (m,).
      x_shape: shape (H, W, C) of the image, static.
    """

    measures_all: ClassVar[bool] = True

    order: Int[Array, " N"]
    rows: Int[Array, " m"]

    def check(self) -> None:
        number = self._num_pixels
        if not np.array_equal(np.sort(self.order), np.arange(number)):
            remedy = f"give a permutation of 0 ... {number - 1}"
            raise UserError("order", f"shape {self.order.shape}", remedy)
        rows = np.asarray(self.rows)
        if len(np.unique(rows)) < len(rows) or rows.min() < 0 or rows.max() >= number:
            found = f"{len(rows)} numbers from {rows.min()} to {rows.max()}"
            raise UserError("rows", found, f"give different ones out of 0 ... {number - 1}")

    @property
    def _num_pixels(self) -> int:
        return self.x_shape[0] * self.x_shape[1]

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "m C"]:
        pixels = x.reshape(self._num_pixels, -1)[self.order]
        return self._transform(pixels)[self.rows]

    def adjoint(self, y: Float[Array, "m C"]) -> Float[Array, "H W C"]:
        coefficients = jnp.zeros((self._num_pixels, y.shape[-1]), y.dtype).at[self.rows].set(y)
        pixels = self._transposed(coefficients)
        return jnp.zeros_like(pixels).at[self.order].set(pixels).reshape(self.x_shape)

    def pinv(self, y: Float[Array, "m C"]) -> Float[Array, "H W C"]:
        """A^+ y = A^T y, exact."""
        return self.adjoint(y)

    def ridge(
        self, y: Float[Array, "m C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        return self.adjoint(y) / (1 + weight)

    def _transform(self, pixels: Float[Array, "N C"]) -> Float[Array, "N C"]:
        rows = dct(self._as_matrices(pixels), axis=1, norm="ortho")
        return self._as_pixels(walsh_hadamard(rows))

    def _transposed(self, coefficients: Float[Array, "N C"]) -> Float[Array, "N C"]:
        rows = walsh_hadamard(self._as_matrices(coefficients))  # Symmetric.
        return self._as_pixels(idct(rows, axis=1, norm="ortho"))

    def _as_matrices(self, pixels: Float[Array, "N C"]) -> Float[Array, "C q p"]:
        power = self._num_pixels & -self._num_pixels  # The largest power of two that divides it.
        return pixels.T.reshape(pixels.shape[-1], -1, power)

    def _as_pixels(self, matrices: Float[Array, "C q p"]) -> Float[Array, "N C"]:
        return matrices.reshape(len(matrices), -1).T


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
