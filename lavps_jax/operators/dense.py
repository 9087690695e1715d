"""Any matrix, decomposed beforehand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator
from lavps_jax.operators.separable import Factor, factor
from lavps_jax.operators.spectral import SpectrumFn, seen_only


class Dense(LinearOperator):
    """y = A x for the pixels of x in one column, (m,); build it with `from_matrix`.

    Attributes:
      matrix: A as `factor(A)`.
      x_shape: shape (H, W, C) of the image, static.
    """

    matrix: Factor

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, " m"]:
        return _times(self.matrix.left, self.matrix.values * self._right(x))

    def adjoint(self, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        return self._back(self.matrix.values * self._left(y))

    def pinv(self, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        """A^+ y, exact up to rounding."""
        return self.spectral_adjoint(lambda s: 1 / s, y)

    def ridge(self, y: Float[Array, " m"], weight: float | Float[Array, ""]) -> Array:
        values = self.matrix.values
        return self._back(values / (values**2 + weight) * self._left(y))

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        values, coefficients = self.matrix.values, self._right(x)
        unseen = fn(jnp.zeros((), values.dtype))
        return unseen * (x - self._back(coefficients)) + self._back(fn(values) * coefficients)

    def spectral_adjoint(self, fn: SpectrumFn, y: Float[Array, " m"]) -> Float[Array, "H W C"]:
        return self._back(seen_only(fn, self.matrix.values) * self._left(y))

    def _right(self, x: Array) -> Float[Array, " r"]:
        return _times(self.matrix.right.T, x.reshape(-1))

    def _back(self, coefficients: Float[Array, " r"]) -> Float[Array, "H W C"]:
        return _times(self.matrix.right, coefficients).reshape(self.x_shape)

    def _left(self, y: Float[Array, " m"]) -> Float[Array, " r"]:
        return _times(self.matrix.left.T, y)


def from_matrix(matrix: np.ndarray, x_shape: tuple[int, ...]) -> Dense:
    """The operator of a real matrix (m, H * W * C), decomposed on the host in float64.

    Raises:
      UserError: if the matrix does not fit the image, is zero, or holds a value that is not finite.
    """
    size = math.prod(x_shape)
    if np.ndim(matrix) != 2 or np.shape(matrix)[1] != size:
        raise UserError("matrix", f"shape {np.shape(matrix)}", f"give {size} columns")
    return Dense(factor(matrix), x_shape=tuple(x_shape))


def _times(matrix: Array, vector: Array) -> Array:
    """Full precision, since laws depend on it."""
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)
