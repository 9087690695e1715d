"""An operator on a larger image of which only a part is measured."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from lavps_jax.errors import UserError
from lavps_jax.operators.base import LinearOperator, MeasurementOperator
from lavps_jax.operators.spectral import SpectrumFn
from lavps_jax.pytrees import static


class Cropped(MeasurementOperator):
    """y = A(crop(x)); build it with `cropped`.

    So an image whose sides a network does not take can be restored inside a larger one: what lies
    around it is not measured, and is drawn from the prior.

    Attributes:
      inner: A, on the part that is measured.
      corner: first row and column of that part, static.
      x_shape: shape (H, W, C) of the larger image, static.
    """

    inner: MeasurementOperator
    corner: tuple[int, int] = static()

    def crop(self, x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        """The part that is measured."""
        (top, left), (height, width, _) = self.corner, self.inner.x_shape
        return x[top : top + height, left : left + width]

    def check(self) -> None:
        self.inner.check()

    def forward(self, x: Float[Array, "H W C"]) -> Array:
        return self.inner.forward(self.crop(x))

    def project(self, y: Array) -> Array:
        return self.inner.project(y)

    def num_observed(self) -> Float[Array, ""]:
        return self.inner.num_observed()

    def estimate(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        return self._surrounded(self.inner.estimate(y, weight))

    def _surrounded(self, x: Float[Array, "h w C"]) -> Float[Array, "H W C"]:
        (top, left), (height, width, _) = self.corner, self.inner.x_shape
        below, right = self.x_shape[0] - top - height, self.x_shape[1] - left - width
        return jnp.pad(x, ((top, below), (left, right), (0, 0)))


class LinearCropped(LinearOperator, Cropped):
    """The same of a linear operator. The crop has orthonormal rows, so closed forms carry over."""

    inner: LinearOperator

    def adjoint(self, y: Array) -> Float[Array, "H W C"]:
        return self._surrounded(self.inner.adjoint(y))

    def pinv(self, y: Array) -> Float[Array, "H W C"]:
        return self._surrounded(self.inner.pinv(y))

    def ridge(self, y: Array, weight: float | Float[Array, ""]) -> Float[Array, "H W C"]:
        return self._surrounded(self.inner.ridge(y, weight))

    def spectral(self, fn: SpectrumFn, x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        (top, left), (height, width, _) = self.corner, self.inner.x_shape
        inside = self.inner.spectral(fn, self.crop(x))
        outside = fn(jnp.zeros((), x.dtype)) * x
        return outside.at[top : top + height, left : left + width].set(inside)

    def spectral_adjoint(self, fn: SpectrumFn, y: Array) -> Float[Array, "H W C"]:
        return self._surrounded(self.inner.spectral_adjoint(fn, y))


def cropped(
    operator: MeasurementOperator, x_shape: tuple[int, ...], corner: tuple[int, int]
) -> Cropped:
    """The operator as one on images of `x_shape`, of which it measures the part at `corner`.

    Raises:
      UserError: if the part does not lie inside.
    """
    inside = all(
        0 <= first and first + length <= whole
        for first, length, whole in zip(corner, operator.x_shape[:2], x_shape[:2], strict=True)
    )
    if not inside or operator.x_shape[2:] != tuple(x_shape[2:]):
        remedy = f"give room for {tuple(operator.x_shape)} at {corner}"
        raise UserError("x_shape", tuple(x_shape), remedy)
    if isinstance(operator, LinearOperator):
        return LinearCropped(operator, corner, x_shape=tuple(x_shape))
    return Cropped(operator, corner, x_shape=tuple(x_shape))
