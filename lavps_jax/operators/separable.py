"""Maps that act on the rows and on the columns of an image, each by a small matrix."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator
from lavps_jax.operators.spectral import SpectrumFn, seen_only


class Factor(NamedTuple):
    """Singular value decomposition U diag(s) V^T of one matrix (h, H), r = min(h, H).

    Attributes:
      left: U, float (h, r).
      values: s, float (r,), in descending order; exactly zero where the matrix has no rank.
      right: V, float (H, r).
    """

    left: Array
    values: Array
    right: Array


class Separable(LinearOperator):
    """Y = R X C^T for every channel, with matrices R (h, H) and C (w, W).

    The singular values are all products of one of R and one of C, so that pseudo-inverse and ridge
    are exact: two small products each.

    Attributes:
      rows: R as `factor(R)`.
      columns: C as `factor(C)`.
      x_shape: shape (H, W, C) of the image, static.
    """

    rows: Factor
    columns: Factor

    def forward(self, x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        return self._leave(self._spectrum() * self._right(x))

    def adjoint(self, y: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        return self._back(self._spectrum() * self._left(y))

    def pinv(self, y: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        """A^+ y, exact up to rounding."""
        spectrum = self._spectrum()
        seen = spectrum > 0
        return self._back(jnp.where(seen, 1 / jnp.where(seen, spectrum, 1), 0) * self._left(y))

    def ridge(
        self, y: Float[Array, "h w C"], weight: float | Float[Array, ""]
    ) -> Float[Array, "H W C"]:
        spectrum = self._spectrum()
        return self._back(spectrum / (spectrum**2 + weight) * self._left(y))

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        coefficients, unseen = self._right(x), fn(jnp.zeros((), x.dtype))
        seen = self._back(fn(self._spectrum()) * coefficients)
        return unseen * (x - self._back(coefficients)) + seen

    def spectral_adjoint(self, fn: SpectrumFn, y: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        return self._back(seen_only(fn, self._spectrum()) * self._left(y))

    def _spectrum(self) -> Array:
        """All singular values, (r, q, 1)."""
        return self.rows.values[:, None, None] * self.columns.values[None, :, None]

    def _right(self, x: Array) -> Array:
        return _both(self.rows.right.T, x, self.columns.right)

    def _back(self, coefficients: Array) -> Array:
        return _both(self.rows.right, coefficients, self.columns.right.T)

    def _left(self, y: Array) -> Array:
        return _both(self.rows.left.T, y, self.columns.left)

    def _leave(self, coefficients: Array) -> Array:
        return _both(self.rows.left, coefficients, self.columns.left.T)


def _both(first: Array, x: Array, second: Array) -> Array:
    """first @ x_c @ second for every channel c; full precision, since laws depend on it."""
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,hwc,wj->ijc", first, x, second, precision=precision)


def factor(matrix: np.ndarray) -> Factor:
    """Decomposes a matrix (h, H) of the host in float64.

    Singular values below 1e-6 of the largest are set to zero: float32 could not invert them.

    Raises:
      UserError: if it is no matrix, is zero, or holds a value that is not finite.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all() or not matrix.any():
        raise UserError("matrix", f"shape {matrix.shape}", "give one with finite values, not zero")
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = np.where(values > 1e-6 * values[0], values, 0)
    return Factor(jnp.asarray(left), jnp.asarray(values), jnp.asarray(right.T))


def bicubic_matrix(length: int, factor: int) -> np.ndarray:
    """Bicubic interpolation (Keys, a = -1/2) with antialiasing to length // factor, float64.

    Raises:
      UserError: if the factor does not divide the length.
    """
    if factor < 1 or length % factor:
        raise UserError("factor", factor, f"give a positive divisor of the length {length}")
    with jax.ensure_compile_time_eval():
        eye = jnp.eye(length, dtype=jnp.float32)
        shape = (length // factor, length)
        return np.asarray(jax.image.resize(eye, shape, "cubic", antialias=True), np.float64)
